"""Answers that stand on passages: what is found goes into the prompt as data, and back to the client as sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from didact.data.raft import words
from didact.serve.served import Served
from didact.text.quote import Quotation, quoted, task

if TYPE_CHECKING:
    from didact.retrieve.index import Index, Passage

NOTHING = "I found nothing relevant to this in the documents."
SHORT = 6  # a question of fewer words is searched for with the one before it
LONG = 4  # characters of a word that says something
RESERVE = 256  # tokens kept free for an answer that names no bound, at most a quarter of the context


@dataclass
class Ground:
    """An index, and how its passages are used.

    A passage is relevant if its cosine with the question is at least ``relevance`` or, in an index without vectors,
    if it has at least half of the question's words of four letters and more.
    """

    index: Index
    passages: int = 4
    relevance: float = 0.25
    guard: bool = True

    def find(self, question: str) -> list[Passage]:
        """The relevant passages, best first."""
        found = self.index.search(question, self.passages)
        return [passage for passage in found if self._relevant(question, passage)]

    def _relevant(self, question: str, passage: Passage) -> bool:
        if not math.isnan(passage.similarity):
            return passage.similarity >= self.relevance
        asked = {word for word in words(question) if len(word) >= LONG}
        said = words(f"{passage.title} {passage.heading} {passage.text}")
        return len(asked & said) * 2 >= max(1, len(asked))


@dataclass(frozen=True)
class Grounded:
    """Messages as they are answered: with passages, where there is an index and a question."""

    messages: Sequence[dict[str, Any]]
    searched: bool = False
    passages: Sequence[Passage] = ()

    @classmethod
    def of(
        cls,
        ground: Ground | None,
        served: Served,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        retrieve: bool,
        bound: int | None,
    ) -> Grounded:
        """Searches for the last question, and puts in as many passages as leave room for the answer."""
        if ground is None or not retrieve or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
            return cls(messages)
        longest = served.writes.longest
        room = longest - min(bound or RESERVE, longest // 4)
        found = ground.find(_query(messages))
        while found:
            given = _given(messages, found, ground.guard, served.named.renderer.signs)
            if len(served.prompt(given, tools)) < room:
                return cls(given, True, found)
            found = found[:-1]
        return cls(messages, True)

    @property
    def preface(self) -> str:
        """What an answer begins with that found nothing to stand on."""
        return f"{NOTHING}\n\n" if self.searched and not self.passages else ""

    def told(self) -> dict[str, Any]:
        """What the client is told."""
        if not self.searched:
            return {}
        names = ("source", "title", "heading", "start", "end", "text", "score")
        sources = [
            {"n": number, **{name: getattr(passage, name) for name in names}}
            for number, passage in enumerate(self.passages, 1)
        ]
        return {"sources": sources, "found": bool(sources)}


def _given(
    messages: Sequence[dict[str, Any]], found: Sequence[Passage], guard: bool, signs: Sequence[str]
) -> list[dict[str, Any]]:
    """The messages, the passages in the last, and a first that says what they are."""
    quotations = [Quotation(each.text, " ".join(filter(None, (each.source, each.heading)))) for each in found]
    last = {**messages[-1], "content": quoted(quotations, messages[-1]["content"], guard, signs)}
    first, rest = (messages[0], messages[1:-1]) if messages[0]["role"] == "system" else (None, messages[:-1])
    about = f"{first['content']}\n\n{task(guard)}" if first else task(guard)
    return [{"role": "system", "content": about}, *rest, last]


def _query(messages: Sequence[dict[str, Any]]) -> str:
    """What is searched for: the last question, with the one before it where it is short."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return " ".join(asked[-2:]) if len(asked[-1].split()) < SHORT else asked[-1]
