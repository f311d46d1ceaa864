"""What data is made of: documents, conversations, completions, texts that belong together, answers that were judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")
RELATIONS = ("contiguous", "random", "linked")  # of two texts; their numbers are what a model tells apart
Message = dict[str, Any]
Said = str | tuple[Message, ...]


@dataclass(frozen=True)
class Document:
    """Plain text, and the class it is of where it is classified."""

    where: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns of a chat.

    ``messages`` are ``{"role": one of ROLES, "content": text}`` with at least one assistant turn; an
    assistant's may have ``tool_calls``, each ``{"type": "function", "function": {"name", "arguments":
    object}}`` and ``weight`` 0, a turn to read and not to learn. Other fields are kept as they came.
    ``tools`` are the JSON schemas of the functions that may be called. ``before`` are messages that only a teacher
    reads, in front of the others: the prompt that a student is to do without.
    """

    where: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    before: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Completion:
    """Text to read and the text that follows it, neither in a chat; ``options`` are what might have followed."""

    where: str
    prompt: str
    completion: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Texts:
    """Several texts that are learned together, each read by itself: a question and its passage, linked documents.

    ``roles`` says of each what it is: a ``query`` or a ``document`` to be embedded, or ``text`` to be learned as any
    document. ``value`` is the one number they share, such as a score; NaN where there is none.
    """

    where: str
    texts: tuple[str, ...]
    roles: tuple[str, ...]
    value: float = math.nan


@dataclass(frozen=True)
class Answers:
    """Answers to one prompt and what people thought of each: a higher value is a better answer.

    ``prompt`` and each of ``answers`` are text, or messages as of a Conversation. A value is NaN where nobody judged.
    ``annotator`` is who judged, under a pseudonym; empty where that is not known. ``places`` are those in which the
    answers stood before who judged them, from 0 on; empty where that is not known.
    """

    where: str
    prompt: Said
    answers: tuple[Said, ...]
    values: tuple[float, ...]
    annotator: str = ""
    places: tuple[int, ...] = ()


Example = Document | Conversation | Completion | Texts | Answers
