"""Completions under way on one model: prompts join while others are decoded, and leave at any moment."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from didact.errors import UsageProblem
from didact.model.attention import Sight
from didact.model.model import Model
from didact.rollout.cache import SlotCache
from didact.rollout.choose import choose, uniform
from didact.rollout.document import DocumentCache, packed_row
from didact.rollout.settings import Sampling
from didact.rollout.text import Decode, Unrolled, undecided

Steer = Callable[[Tensor, Sequence[int]], Tensor]  # logits fp32 [V] and the tokens so far to logits to choose from


@dataclass
class Completion:
    """What was sampled for one prompt.

    ``tokens`` include the stop token that ended it; ``logprobs`` are the model's own log-probabilities of them, before
    temperature and truncation; ``text`` is without stop token and stop string, and only ever grows: half a character,
    or what may become a stop string, waits for its rest. ``likeliest`` are the best tokens at each place with their
    log-probabilities, where a row asks for them.
    """

    prompt: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    reason: Literal["", "stop", "length"] = ""
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)


@dataclass
class Row:
    """One completion under way: its slot is its place in the list of rows.

    ``steer`` changes the logits that the next token is chosen from; ``best`` is how many tokens ``likeliest`` tells.
    """

    out: Completion
    sampling: Sampling
    prompt: list[int]
    document: DocumentCache | None
    opening: int
    position: int
    seen: set[int]
    words: Unrolled
    steer: Steer | None = None
    best: int = 0
    last: int = 0
    searched: int = 0  # characters known to hold no stop string's beginning


class Decoder:
    """Decodes the completions that were admitted, each with its next token at every step.

    Each completion's random numbers depend on its own seed alone, never on what is decoded beside it. The caller sees
    to evaluation mode, inference mode and, for speed, ``prepacked``.
    """

    def __init__(self, model: Model, decode: Decode, stops: Collection[int], longest: int | None = None):
        self.model, self.decode, self.stops = model, decode, frozenset(stops)
        self.longest = longest or getattr(model.net.config, "max_position_embeddings", 1 << 30)
        self.device = next(model.parameters()).device
        self.cache = SlotCache(len(model.layers), self.device)
        self.rows: list[Row] = []

    def row(
        self,
        number: int,
        prompt: Sequence[int],
        sampling: Sampling,
        opening: int | None = None,
        document: DocumentCache | None = None,
    ) -> Row:
        """A completion to be. Raises UsageProblem for a prompt that is empty or leaves no room in the context."""
        whole = [*(document.tokens if document else ()), *prompt]
        if not (prompt and len(whole) < self.longest):
            raise UsageProblem(
                f"prompt {number} has {len(whole) if prompt else 0} tokens; this model takes 1 to {self.longest - 1}",
                remedy="shorten it",
            )
        words, read = Unrolled(self.decode, whole), len(prompt) if opening is None else opening
        return Row(Completion(number), sampling, list(prompt), document, read, len(whole), set(whole), words)

    def admit(self, rows: Sequence[Row], share: bool = False) -> list[Completion]:
        """Reads the prompts of these rows and gives each its first token.

        With ``share`` a prompt that several rows have is read once.
        """
        fresh = sorted(rows, key=lambda row: row.document is not None)
        logits = self._begin(fresh, share)
        self.rows.extend(fresh)
        return self._grow(logits, len(self.rows) - len(fresh))

    def step(self) -> list[Completion]:
        """Gives every row its next token; those with a ``reason`` are over and have freed their slots."""
        return self._grow(self._decode(), 0)

    def cancel(self, row: Row) -> None:
        """Frees the slot of a row under way."""
        self._close(next(place for place, other in enumerate(self.rows) if other is row))

    def _close(self, place: int) -> None:
        """The last row takes a freed place, as its slot does in the cache."""
        self.cache.close(place)
        self.rows[place] = self.rows[-1]
        self.rows.pop()

    def _begin(self, rows: Sequence[Row], share: bool) -> Tensor:
        """Logits after each prompt [n, V]; those that go on from a document come last."""
        plain = [row for row in rows if row.document is None]
        first: dict[tuple[tuple[int, ...], int], Row] = {}
        known = [(tuple(row.prompt), row.opening if share else place) for place, row in enumerate(plain)]
        for key, row in zip(known, plain, strict=True):
            first.setdefault(key, row)
        parts = [self._prefill([*first.values()])] if plain else []
        if len(first) < len(plain):
            source = [[*first].index(key) for key in known]
            self.cache.spread(source)
            parts = [parts[0][source]]
        documents = [row.document for row in rows if row.document]
        if documents:
            parts.append(self._resume(documents, [row.prompt for row in rows[len(plain) :]]))
        return torch.cat(parts)

    def _prefill(self, rows: Sequence[Row]) -> Tensor:
        """Logits after each prompt [n, V]; the prompts go through packed in one row, without padding."""
        lengths = [len(row.prompt) for row in rows]
        token, position, doc = packed_row([row.prompt for row in rows], self.device)
        reach = torch.arange(token.shape[1])
        if self.model.bidirectional_prompt:
            for end, n, row in zip(accumulate(lengths), lengths, rows, strict=True):
                reach[end - n : end - n + row.opening] = end - n + row.opening - 1
        self.cache.open(lengths)
        hidden = self._forward(token, position, Sight(doc, reach[None].to(self.device)))
        self.cache.filled()
        return self._logits(hidden[0, torch.tensor(lengths, device=self.device).cumsum(0) - 1])

    def _resume(self, documents: Sequence[DocumentCache], prompts: Sequence[list[int]]) -> Tensor:
        """Logits after each prompt [n, V] that goes on from a document; the prompts are padded at their ends."""
        width = max(map(len, prompts))
        token = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.device)
        reach = self.cache.resume([document.held for document in documents], [len(prompt) for prompt in prompts])
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        index = torch.arange(len(prompts), device=self.device)
        position = torch.minimum(reach, reach[index, last][:, None])  # no padding beyond the last position there is
        hidden = self._forward(token, position, Sight.decode(reach))
        self.cache.filled()
        return self._logits(hidden[index, last])

    def _decode(self) -> Tensor:
        """Logits after one more token in every slot, [n, V]."""
        token = torch.tensor([[row.last] for row in self.rows], device=self.device)
        reach = self.cache.length[:, None].clone()
        hidden = self._forward(token, reach, Sight.decode(reach))
        self.cache.advance()
        return self._logits(hidden[:, 0])

    def _forward(self, token: Tensor, position: Tensor, sight: Sight) -> Tensor:
        body: Any = self.model.body
        return body(
            input_ids=token, position_ids=position, sight=sight, past_key_values=self.cache, use_cache=True
        ).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden).float()  # [n, V]

    def _grow(self, logits: Tensor, first: int) -> list[Completion]:
        """Gives rows ``first``... their next token; drops those that are finished."""
        rows = self.rows[first:]
        chosen = self._choose(logits, rows)
        picked = logits.gather(1, torch.tensor(chosen, device=self.device)[:, None])[:, 0]
        whole = logits.logsumexp(-1)
        logprobs = (picked - whole).tolist()
        for row, token, logprob, scores, total in zip(rows, chosen, logprobs, logits, whole, strict=True):
            if row.best:
                best = (scores - total).topk(min(row.best, len(scores)))
                row.out.likeliest.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            row.out.tokens.append(token)
            row.out.logprobs.append(logprob)
            row.last = token
            row.seen.add(token)
            row.position += 1
            self._settle(row)
        for place in reversed(range(first, len(self.rows))):
            if self.rows[place].out.reason:
                self._close(place)
        return [row.out for row in rows]

    def _choose(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """The next token of each row; those that just take the likeliest are asked for it together."""
        likeliest = logits.argmax(-1).tolist()
        chosen = []
        for row, scores, best in zip(rows, logits, likeliest, strict=True):
            repeats = row.sampling.repetition_penalty != 1
            if row.sampling.temperature == 0 and not repeats and row.steer is None:
                chosen.append(best)
            else:
                seen = torch.tensor(sorted(row.seen), device=self.device) if repeats else None
                scores = scores if row.steer is None else row.steer(scores, row.out.tokens)
                chosen.append(choose(scores, row.sampling, seen, uniform(row.sampling.seed, len(row.out.tokens))))
        return chosen

    def _settle(self, row: Row) -> None:
        """Updates the text and decides whether the completion is over."""
        out = row.out
        if out.tokens[-1] in self.stops:
            out.reason = "stop"
        else:
            row.words.add(out.tokens[-1])
            full = len(out.tokens) >= row.sampling.max_new_tokens or row.position >= self.longest
            out.reason = "length" if full else ""
        if out.reason:
            row.words.finish()
        text, stops = row.words.text, row.sampling.stop
        places = [place for stop in stops if (place := text.find(stop, row.searched)) >= 0]
        if places:
            out.text, out.reason = text[: min(places)], "stop"
        else:
            row.searched = len(text) - undecided(text, stops)
            out.text = text if out.reason else text[: row.searched]
