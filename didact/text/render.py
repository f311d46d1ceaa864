"""From examples to token ids, the one way for training and for serving, and which of them are to be learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from didact.errors import DataProblem
from didact.text.guard import Guard
from didact.text.template import Message, Template, chatml
from didact.text.turns import PROBE, Search, Turn, header, look

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 1  # raise it when the same input renders to other tokens or another mask
Tools = Sequence[Mapping[str, Any]] | None
Said = str | Sequence[Message]


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each whether it is to be predicted; of several texts, also which one it belongs to."""

    tokens: list[int]
    trained: list[bool]
    texts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Encoded:
    """A text's tokens with their characters: ``ids``, ``starts``, ``ends``, all [T]."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def turns(said: Said, role: str) -> Sequence[Message]:
    """Messages as they are; text as one message of ``role``."""
    return [{"role": role, "content": said}] if isinstance(said, str) else said


class Renderer:
    """Renders with a tokenizer and its chat template, or with ChatML where it has none.

    ``template`` is the chat template, to be saved with the model; ``template_origin`` says whose it is.
    ``generation_eos`` are further ids that end a generation (``generation_config.json``); ``values`` are variables of
    the template, such as ``{"enable_thinking": False}`` or a fixed ``{"date_string": "26 Jul 2024"}`` for templates
    that would else write today's; ``prompts`` are what stands before a text to be embedded, by its role (``query``,
    ``document``), and are not pooled unless ``pool_prompts``. Raises DataProblem for a tokenizer with nothing to
    end a text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        generation_eos: Iterable[int] = (),
        values: Mapping[str, Any] | None = None,
        prompts: Mapping[str, str] | None = None,
        pool_prompts: bool = False,
    ):
        self.tokenizer, self.prompts, self.pool_prompts = tokenizer, dict(prompts or {}), pool_prompts
        self._generation_eos = tuple(generation_eos)
        self._opening, closing = self._wrapping()
        self._closing_ids = closing
        ends = [tokenizer.eos_token_id, *reversed(closing), tokenizer.sep_token_id]
        self._eos: int = next((end for end in ends if end is not None), -1)
        if self._eos < 0:
            raise DataProblem("this tokenizer has no end-of-sequence token", remedy="name its eos_token")
        bos = tokenizer.bos_token_id is not None and self._opening[:1] == [tokenizer.bos_token_id]
        self.template: str | dict[str, str] = tokenizer.chat_template or chatml(tokenizer, bos)
        self.template_origin: Literal["model", "didact-chatml"] = (
            "model" if tokenizer.chat_template else "didact-chatml"
        )
        self._template = Template(tokenizer, self.template, dict(values or {}))
        added = tokenizer.added_tokens_decoder
        # Gemma has runs of newlines among its added tokens; no turn ends with one.
        self._marking = np.asarray(sorted(i for i, token in added.items() if token.content.strip()), np.int64)
        self._swallowing = frozenset(i for i, token in added.items() if token.rstrip)

    # --- what is learned ---------------------------------------------------------------------------------

    def document(self, text: str) -> Rendered:
        """The text between what this tokenizer opens texts with (BOS, if anything) and EOS, each once.

        All but the opening is trained.
        """
        return self._document(self._ids(text))

    def documents(self, texts: Sequence[str]) -> list[Rendered]:
        """Many documents at once, on all cores."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        return [self._document(ids) for ids in encoded]

    def _document(self, ids: list[int]) -> Rendered:
        size = len(self._opening)
        body = ids[size:] if size and ids[:size] == self._opening else ids
        body = body if body[-1:] == [self._eos] else [*body, self._eos]
        return Rendered([*self._opening, *body], [False] * size + [True] * len(body))

    def embedding(self, served: Mapping[str, Any]) -> Renderer:
        """This renderer with the prompts that a model's ``embedding`` asks for, if any."""
        asked = served.get("embedding", {})
        if not asked.get("prompts"):
            return self
        return Renderer(self.tokenizer, prompts=asked["prompts"], pool_prompts=asked.get("pool_prompts", False))

    def embedded(self, text: str, role: str) -> Rendered:
        """A text to be embedded: its role's prompt and the text as one, between what the tokenizer puts around it.

        Marked is what is pooled: all but the prompt and what stands before it, unless prompts are pooled.
        """
        return self.embeddings([text], role)[0]

    def embeddings(self, texts: Sequence[str], role: str, longest: int | None = None) -> list[Rendered]:
        """Many texts to be embedded, cut to ``longest`` tokens each: the ids of ``tokenizer(prompt + text)``."""
        prompt = self.prompts.get(role, "")
        read = 0 if self.pool_prompts or not prompt else len(self._opening) + len(self._ids(prompt))
        whole = [prompt + text for text in texts]
        found = self.tokenizer(whole, truncation=longest is not None, max_length=longest, verbose=False)["input_ids"]
        return [Rendered(ids, [place >= read for place in range(len(ids))]) for ids in found]

    def completion(self, prompt: str, completion: str) -> Rendered:
        """A prompt as serving encodes it, then what follows: trained, and ended with EOS.

        The two are encoded apart, as a generation starts on the prompt's own tokens whatever comes next.
        """
        read = self.beginning(prompt)
        said = self._continued(completion)
        said = said if said[-1:] == [self._eos] else [*said, self._eos]
        return Rendered([*read, *said], [False] * len(read) + [True] * len(said))

    def conversation(self, messages: Sequence[Message], tools: Tools = None) -> Rendered:
        """The ids of ``tokenizer.apply_chat_template``; trained is what the assistant says and what ends its turn.

        A message with ``weight`` 0 is read and not trained. A token that holds the last of the header and the first
        of the answer is trained; ``joint`` tells of it. Raises DataProblem with the template's complaint, or naming
        the turn that cannot be found in what the template made.
        """
        return self.conversations([(messages, tools)])[0]

    def conversations(self, items: Sequence[tuple[Sequence[Message], Tools]]) -> list[Rendered]:
        """Many conversations at once, encoded on all cores."""
        if not items:
            return []
        texts = [self._text(messages, tools) for messages, tools in items]
        return [
            self._masked(Search(self._template, text, messages, tools, self._header), encoded)
            for text, (messages, tools), encoded in zip(texts, items, self._encoded(texts), strict=True)
        ]

    def answers(self, prompt: Said, answers: Sequence[Said]) -> Rendered:
        """A prompt but for its last token, then every answer behind that token; ``texts`` are 0 and 1, 2, ...

        Each answer's tokens, the prompt's among them, are those of ``completion``, or of ``conversation`` where any of
        these is messages; trained is what is answered, and what ends it.
        """
        if all(isinstance(one, str) for one in (prompt, *answers)):
            whole = [self.completion(str(prompt), str(one)) for one in answers]
        else:
            before = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns(prompt, "user")]
            whole = self.conversations([([*before, *turns(one, "assistant")], None) for one in answers])
        first = min(one.trained.index(True) for one in whole)
        pairs = zip(*(one.tokens[:first] for one in whole), strict=True)
        alike = next((place for place, tokens in enumerate(pairs) if len(set(tokens)) > 1), first)
        shared = max(alike - 1, 0)
        tokens, trained = whole[0].tokens[:shared], [False] * shared
        texts = [0] * shared
        for number, one in enumerate(whole, 1):
            tokens, trained = [*tokens, *one.tokens[shared:]], [*trained, *one.trained[shared:]]
            texts += [number] * (len(one.tokens) - shared)
        return Rendered(tokens, trained, texts)

    def _masked(self, search: Search, encoded: Encoded) -> Rendered:
        trained = np.zeros(len(encoded.ids), bool)
        for turn in search.turns():
            last = self._closing(encoded, turn.said, turn.limit)
            if last is None:
                raise search.problem(turn.index, "no token ends it, so a model could not learn to stop")
            trained[self._first(encoded, turn) : last + 1] = True
        return Rendered(encoded.ids.tolist(), trained.tolist())

    def _first(self, encoded: Encoded, turn: Turn) -> int:
        """The first token with a character of the turn, but for one of the header that swallowed white space."""
        first = int(np.argmax(encoded.ends > turn.start))
        return first + (encoded.starts[first] < turn.start and int(encoded.ids[first]) in self._swallowing)

    def _closing(self, encoded: Encoded, said: int, limit: int, ids: np.ndarray | None = None) -> int | None:
        """Index of the first token that can end a turn between two characters."""
        wanted = np.asarray(self._closers, np.int64) if ids is None else ids
        inside = (encoded.starts >= said) & (encoded.starts < limit) & np.isin(encoded.ids, wanted)
        return int(np.argmax(inside)) if inside.any() else None

    # --- what is served ----------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """The ids an answer to these messages starts from."""
        return self._ids(self._text(messages, tools, prompt=True))

    def beginning(self, text: str) -> list[int]:
        """The ids of a text to be gone on from, with what this tokenizer opens texts with."""
        read = self._ids(text)
        return read if read[: len(self._opening)] == self._opening else [*self._opening, *read]

    def guarded(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """``prompt``, but control tokens that a message or a tool spells are read as the text they are."""
        guard = Guard(*self._signs, messages, tools)
        if not guard.hides:
            return self.prompt(messages, tools)
        pieces = guard.pieces(self._text(guard.messages, guard.tools, prompt=True))
        return [*self._ids(next(pieces)[0]), *(number for piece in pieces for number in self._piece(*piece))]

    def _piece(self, text: str, hidden: bool) -> list[int]:
        """The ids of what follows in a text; what was hidden loses its first letter to another token."""
        return [*self._continued(text[:1]), *self._continued(text[1:])] if hidden else self._continued(text)

    @property
    def signs(self) -> list[str]:
        """The control tokens, as they are spelled."""
        return [*self._signs[0], *self._signs[1]]

    @cached_property
    def _signs(self) -> tuple[list[str], list[str]]:
        """Special tokens, and other added tokens that the template writes itself."""
        added, written = self.tokenizer.added_tokens_decoder.values(), str(self.template)
        special = [token.content for token in added if token.special and token.content.strip()]
        return special, [token.content for token in added if token.content.strip() and token.content in written]

    def _text(self, messages: Sequence[Message], tools: Tools, prompt: bool = False) -> str:
        text = self._template(messages, tools, prompt)
        if tools and text == self._template(messages, None, prompt):
            raise DataProblem(
                "the chat template leaves the tools out",
                remedy="remove the tools from this data, or give the model a chat template that writes them",
            )
        return text

    def joint(self, messages: Sequence[Message], tools: Tools = None) -> str | None:
        """Where training on this conversation and serving its turns part ways, in a sentence; None if nowhere.

        Some templates cannot agree: they drop earlier thoughts, or move the system message to the last user.
        """
        learned = self.conversation(messages, tools).tokens
        for index, message in enumerate(messages):
            if index and message.get("role") == "assistant":
                served = self.prompt(messages[:index], tools)
                differs = self._difference(learned, served)
                if differs or self._header:
                    why = differs or f"no generation prompt: serving does not write {self._header!r} and training does"
                    return f"turn {index + 1} (assistant): {why}"
        return None

    def _difference(self, learned: list[int], served: list[int]) -> str | None:
        pairs = enumerate(zip(learned, served, strict=False))
        place = next((at for at, (left, right) in pairs if left != right), None)
        if place is None:
            return None if len(learned) >= len(served) else "the prompt is longer than the whole conversation"
        read, said = self.decode(learned[place : place + 8]), self.decode(served[place : place + 8])
        return f"at token {place} training reads {read!r} where serving reads {said!r}"

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """Ids that end a generation: EOS, what the template ends turns with, and ``generation_eos``."""
        return tuple(sorted({self._eos, *self._closers, *self._generation_eos}))

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of token ids, exactly."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
        )

    # --- what it depends on ------------------------------------------------------------------------------

    @cached_property
    def key(self) -> str:
        """Hash of all that rendering depends on, but the date, which some templates write."""
        backend = orjson.loads(self.tokenizer.backend_tokenizer.to_str())
        content = {name: part for name, part in backend.items() if name not in ("truncation", "padding")}
        settings = [VERSION, self.template, self._opening, self._eos, self.stops, self.tokenizer.special_tokens_map]
        parts = [
            content,
            *settings,
            dict(self._template.values),
            *([self.prompts, self.pool_prompts] if self.prompts else []),
        ]
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @cached_property
    def _header(self) -> str:
        return header(self._template)

    @cached_property
    def _closers(self) -> tuple[int, ...]:
        """The tokens that end an assistant's turn, found by rendering one in the middle and one at the end."""
        text = self._template(PROBE, None)
        seen, encoded = look(self._template, text, PROBE, None), self._encoded([text])[0]
        if seen is None or 1 not in seen.ends or 3 not in seen.ends:
            raise DataProblem(
                "the chat template does not render what the assistant says", remedy="give the model another template"
            )
        limits = (min(place for place, of in seen.both() if of > 1), len(text))
        found = [
            self._closing(encoded, seen.ends[of][-1], limit, self._marking)
            for of, limit in zip((1, 3), limits, strict=True)
        ]
        opening = {self.tokenizer.bos_token_id} - {self.tokenizer.eos_token_id}
        return tuple(sorted({int(encoded.ids[at]) for at in found if at is not None} - opening))

    def _wrapping(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's own post-processing puts before and after a text."""
        plain, whole = self._ids("a"), self.tokenizer("a")["input_ids"]
        at = next(n for n in range(len(whole)) if whole[n : n + len(plain)] == plain)
        return whole[:at], whole[at + len(plain) :]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _encoded(self, texts: list[str]) -> list[Encoded]:
        batch = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = [np.asarray(offsets, np.int64).reshape(-1, 2) for offsets in batch["offset_mapping"]]
        pairs = zip(batch["input_ids"], spans, strict=True)
        return [Encoded(np.asarray(ids, np.int64), span[:, 0], span[:, 1]) for ids, span in pairs]

    def _continued(self, text: str) -> list[int]:
        """The ids of a text that follows another."""
        if not self._spaced:
            return self._ids(text)
        for before in ("\n", ".", "0"):  # a newline may merge with another
            lead, both = self._ids(before), self._ids(before + text)
            if both[: len(lead)] == lead:
                return both[len(lead) :]
        raise DataProblem(
            "this tokenizer has no way to encode a completion by itself", remedy="give the text as one document"
        )

    @cached_property
    def _spaced(self) -> bool:
        """Whether a text that begins is encoded otherwise than one that goes on: SentencePiece's leading space."""
        lead, both = self._ids("\n"), self._ids("\nx")
        return both[len(lead) :] != self._ids("x")
