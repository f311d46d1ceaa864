"""Prompts in, completions with log-probabilities out: batched decoding on the model that is being trained."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from didact.errors import UsageProblem
from didact.model.attention import Sight
from didact.model.model import Model
from didact.model.prepack import prepacked
from didact.rollout.cache import SlotCache
from didact.rollout.choose import choose, uniform
from didact.rollout.document import DocumentCache, mark, packed_row
from didact.rollout.settings import Sampling
from didact.rollout.text import Decode, Unrolled, undecided


@dataclass
class Completion:
    """What was sampled for one prompt.

    ``tokens`` include the stop token that ended it; ``logprobs`` are the model's own log-probabilities of them, before
    temperature and truncation; ``text`` is without stop token and stop string, and only ever grows: half a character,
    or what may become a stop string, waits for its rest.
    """

    prompt: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    reason: Literal["", "stop", "length"] = ""


@dataclass
class _Row:
    """One completion under way: its slot is its place in the list of rows."""

    out: Completion
    sampling: Sampling
    prompt: list[int]
    document: DocumentCache | None
    opening: int
    position: int
    seen: set[int]
    words: Unrolled
    last: int = 0
    searched: int = 0  # characters known to hold no stop string's beginning


class Sampler:
    """Decodes up to ``slots`` completions at once; a finished one gives its place to the next waiting prompt.

    Each completion's random numbers depend on its own seed alone, never on what is decoded beside it.
    """

    def __init__(self, model: Model, decode: Decode, stops: Sequence[int], slots: int = 16, longest: int | None = None):
        self.model, self.decode, self.stops, self.slots = model, decode, frozenset(stops), slots
        self.longest = longest or getattr(model.net.config, "max_position_embeddings", 1 << 30)
        self.device = next(model.parameters()).device

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        openings: Sequence[int] | None = None,
        documents: Sequence[DocumentCache | None] | None = None,
    ) -> list[Completion]:
        """All completions, in the order of their prompts."""
        done = {out.prompt: out for out in self.stream(prompts, sampling, openings, documents) if out.reason}
        return [done[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        openings: Sequence[int] | None = None,
        documents: Sequence[DocumentCache | None] | None = None,
    ) -> Iterator[Completion]:
        """Yields each completion after each of its tokens; the last time with its ``reason``.

        ``sampling`` is one for all, whose seed then goes up by one a prompt, or one a prompt. ``openings`` are the
        numbers of tokens before the first answer of each prompt, by default all of it: what a model trained with
        ``prefix`` reads in both directions. ``documents`` were read before and stand before their prompts, which go on
        from them. Raises UsageProblem for a model that cannot write, for a prompt that is empty or leaves no room in
        the model's context, and for a document that another model has read.
        """
        if prompts:
            self.model.check_writes()
        each = self._each(sampling, len(prompts))
        ends = openings or [len(prompt) for prompt in prompts]
        before = self._checked(documents or [None] * len(prompts))
        waiting = deque(map(self._row, range(len(prompts)), prompts, each, ends, before))
        cache = SlotCache(len(self.model.layers), self.device)
        rows: list[_Row] = []
        training = self.model.training
        self.model.eval()
        try:
            with prepacked(self.model.net):
                while waiting or rows:
                    fresh = [waiting.popleft() for _ in range(min(self.slots - len(rows), len(waiting)))]
                    if fresh:
                        fresh.sort(key=lambda row: row.document is not None)
                        logits = self._begin(cache, fresh)
                        rows.extend(fresh)
                        yield from self._grow(cache, rows, logits, len(rows) - len(fresh))
                    if rows:
                        yield from self._grow(cache, rows, self._decode(cache, rows), 0)
        finally:
            self.model.train(training)

    def _each(self, sampling: Sampling | Sequence[Sampling], count: int) -> Sequence[Sampling]:
        if isinstance(sampling, Sampling):
            return [sampling.model_copy(update={"seed": sampling.seed + i}) for i in range(count)]
        return sampling

    def _checked(self, documents: Sequence[DocumentCache | None]) -> Sequence[DocumentCache | None]:
        given = [document for document in documents if document is not None]
        if given and self.model.bidirectional_prompt:
            raise UsageProblem(
                "this model reads its prompts in both directions, so no document can be read ahead of them",
                remedy="give the document as part of the prompt",
            )
        if given and any(document.reader != mark(self.model) for document in given):
            raise UsageProblem("a document was read by another model than this", remedy="read it again with this one")
        return documents

    def _row(
        self, number: int, prompt: Sequence[int], sampling: Sampling, opening: int, document: DocumentCache | None
    ) -> _Row:
        whole = [*(document.tokens if document else ()), *prompt]
        if not (prompt and len(whole) < self.longest):
            raise UsageProblem(
                f"prompt {number} has {len(whole) if prompt else 0} tokens; this model takes 1 to {self.longest - 1}",
                remedy="shorten it",
            )
        words = Unrolled(self.decode, whole)
        return _Row(Completion(number), sampling, list(prompt), document, opening, len(whole), set(whole), words)

    def _begin(self, cache: SlotCache, rows: Sequence[_Row]) -> Tensor:
        """Logits after each prompt [n, V]; those that go on from a document come last."""
        plain = [row for row in rows if row.document is None]
        parts = [self._prefill(cache, plain)] if plain else []
        documents = [row.document for row in rows if row.document]
        if documents:
            parts.append(self._resume(cache, documents, [row.prompt for row in rows[len(plain) :]]))
        return torch.cat(parts)

    def _prefill(self, cache: SlotCache, rows: Sequence[_Row]) -> Tensor:
        """Logits after each prompt [n, V]; the prompts go through packed in one row, without padding."""
        lengths = [len(row.prompt) for row in rows]
        token, position, doc = packed_row([row.prompt for row in rows], self.device)
        reach = torch.arange(token.shape[1])
        if self.model.bidirectional_prompt:
            for end, n, row in zip(accumulate(lengths), lengths, rows, strict=True):
                reach[end - n : end - n + row.opening] = end - n + row.opening - 1
        cache.open(lengths)
        hidden = self._forward(token, position, Sight(doc, reach[None].to(self.device)), cache)
        cache.filled()
        return self._logits(hidden[0, torch.tensor(lengths, device=self.device).cumsum(0) - 1])

    def _resume(self, cache: SlotCache, documents: Sequence[DocumentCache], prompts: Sequence[list[int]]) -> Tensor:
        """Logits after each prompt [n, V] that goes on from a document; the prompts are padded at their ends."""
        width = max(map(len, prompts))
        token = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.device)
        reach = cache.resume([document.held for document in documents], [len(prompt) for prompt in prompts])
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        index = torch.arange(len(prompts), device=self.device)
        position = torch.minimum(reach, reach[index, last][:, None])  # no padding beyond the last position there is
        hidden = self._forward(token, position, Sight.decode(reach), cache)
        cache.filled()
        return self._logits(hidden[index, last])

    def _decode(self, cache: SlotCache, rows: list[_Row]) -> Tensor:
        """Logits after one more token in every slot, [n, V]."""
        token = torch.tensor([[row.last] for row in rows], device=self.device)
        reach = cache.length[:, None].clone()
        hidden = self._forward(token, reach, Sight.decode(reach), cache)
        cache.advance()
        return self._logits(hidden[:, 0])

    def _forward(self, token: Tensor, position: Tensor, sight: Sight, cache: SlotCache) -> Tensor:
        body: Any = self.model.body
        return body(
            input_ids=token, position_ids=position, sight=sight, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden).float()  # [n, V]

    def _grow(self, cache: SlotCache, rows: list[_Row], logits: Tensor, first: int) -> Iterator[Completion]:
        """Gives rows ``first``... their next token; drops those that are finished."""
        chosen = self._choose(logits, rows[first:])
        picked = logits.gather(1, torch.tensor(chosen, device=self.device)[:, None])[:, 0]
        logprobs = (picked - logits.logsumexp(-1)).tolist()
        finished = []
        for place, (row, token, logprob) in enumerate(zip(rows[first:], chosen, logprobs, strict=True), first):
            row.out.tokens.append(token)
            row.out.logprobs.append(logprob)
            row.last = token
            row.seen.add(token)
            row.position += 1
            self._settle(row)
            if row.out.reason:
                finished.append(place)
            yield row.out
        for place in reversed(finished):  # the last row takes a freed place, as its slot does in the cache
            cache.close(place)
            rows[place] = rows[-1]
            rows.pop()

    def _choose(self, logits: Tensor, rows: Sequence[_Row]) -> list[int]:
        """The next token of each row; those that just take the likeliest are asked for it together."""
        likeliest = logits.argmax(-1).tolist()
        chosen = []
        for row, scores, best in zip(rows, logits, likeliest, strict=True):
            repeats = row.sampling.repetition_penalty != 1
            if row.sampling.temperature == 0 and not repeats:
                chosen.append(best)
            else:
                seen = torch.tensor(sorted(row.seen), device=self.device) if repeats else None
                chosen.append(choose(scores, row.sampling, seen, uniform(row.sampling.seed, len(row.out.tokens))))
        return chosen

    def _settle(self, row: _Row) -> None:
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
