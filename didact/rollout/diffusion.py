"""Text by unmasking: an answer begins as masks and settles in a few passes, surest tokens first.

A pass predicts every token still masked; the likeliest of these predictions are kept, and never changed again, the
others are masked once more (LLaDA's low-confidence remasking, Nie et al. 2025, arXiv:2502.09992, section 2.4).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model.attention import Sight
from didact.model.model import Model
from didact.rng import mix
from didact.rollout.choose import penalised
from didact.rollout.decoder import Completion
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.rollout.text import Decode, Unrolled

VEIL = "░"  # a token that is still masked, in a sketch


@dataclass
class Draft(Completion):
    """An answer under way: ``canvas`` are its ids, masks among them; ``passes`` counts forward passes so far.

    ``text`` is what has settled from the left on; ``tokens`` and ``logprobs`` come at the end, the latter as the model
    gave them in the pass that kept the token.
    """

    canvas: list[int] = field(default_factory=list)
    passes: int = 0


class Unmasker:
    """Answers one prompt after the other with a model trained by ``Diffusion``; has the interface of ``Sampler``.

    A model trained in blocks writes block after block and keeps keys and values of those that are done. Others read the
    whole answer in every pass; ``Sampling.block`` then only says what is written first.
    """

    def __init__(self, model: Model, decode: Decode, stops: Sequence[int], longest: int | None = None):
        self.model, self.decode, self.stops = model, decode, frozenset(stops)
        self.longest = longest or getattr(model.net.config, "max_position_embeddings", 1 << 30)
        self.device = next(model.parameters()).device
        way = model.served["text_diffusion"]
        self.mask, self.block, self.shift = int(way["mask"]), way["block"], bool(way["shift"])

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        openings: Sequence[int] | None = None,
    ) -> list[Draft]:
        """All answers, in the order of their prompts."""
        return [out for out in self.stream(prompts, sampling, openings) if out.reason]

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        openings: Sequence[int] | None = None,
    ) -> Iterator[Draft]:
        """Yields each answer after each of its passes; the last time with its ``reason``.

        ``sampling`` is one for all, whose seed then goes up by one a prompt, or one a prompt. ``openings`` change
        nothing: a prompt is always read as a whole. Raises UsageProblem for a prompt that is empty or leaves no room.
        """
        training = self.model.training
        self.model.eval()
        try:
            for number, prompt in enumerate(prompts):
                if isinstance(sampling, Sampling):
                    way = sampling.model_copy(update={"seed": sampling.seed + number})
                else:
                    way = sampling[number]
                yield from self._answer(number, prompt, way)
        finally:
            self.model.train(training)

    def _answer(self, number: int, prompt: Sequence[int], way: Sampling) -> Iterator[Draft]:
        if not 0 < len(prompt) < self.longest:
            what = f"prompt {number} has {len(prompt)} tokens; this model takes 1 to {self.longest - 1}"
            raise UsageProblem(what, remedy="shorten it")
        if self.block and way.block not in (0, self.block):
            raise UsageProblem(f"this model writes blocks of {self.block} tokens", remedy="leave block out")
        begin, end = len(prompt), min(len(prompt) + way.max_new_tokens, self.longest)
        token = torch.full((end,), self.mask)
        token[:begin] = torch.tensor(prompt)
        out, words = Draft(number), Unrolled(self.decode, prompt)
        logprob, settled = torch.zeros(end), begin
        reader = _Reader(self, begin, bool(way.guidance))
        parts = stretches(begin, end, self.block or way.block, bool(self.block))
        for (first, last), passes in zip(parts, shares([b - a for a, b in parts], way.steps), strict=True):
            for count in schedule(last - first, passes):
                left = (token[first:last] == self.mask).nonzero()[:, 0] + first
                guess, own, sure = self._predict(reader.logits(token, left, last), token[:end], way, out.passes)
                kept = sure.topk(count).indices
                token[left[kept]], logprob[left[kept]] = guess[kept], own[kept]
                out.passes += 1
                out.canvas = token[begin:].tolist()
                while not out.reason and settled < end and token[settled] != self.mask:
                    settled += 1
                    self._settle(out, words, settled - begin, end - begin, way.stop)
                if out.reason:
                    out.tokens, out.logprobs = out.canvas[: settled - begin], logprob[begin:settled].tolist()
                yield out
                if out.reason:
                    return

    def _predict(self, logits: Tensor, token: Tensor, way: Sampling, turn: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each masked place a token, its log-probability as the model has it, and how sure it is, all [n].

        ``logits`` [rows, n, V]; a second row reads no prompt, and the first is led away from it (Ho and Salimans 2022,
        arXiv:2207.12598): u + (1 + w)(c - u).
        """
        own = logits[0].index_fill(1, torch.tensor([self.mask]), -math.inf)
        score = own if len(logits) == 1 else logits[1] + (1 + way.guidance) * (own - logits[1])
        if way.repetition_penalty != 1:
            score = penalised(score.T, token[token != self.mask].unique(), way.repetition_penalty).T
        chance = torch.Generator().manual_seed(mix(way.seed, turn))
        guess = score.argmax(-1)
        if way.temperature:
            # Gumbel's maximum is a draw from the softmax; in fp32 its tails are too short (Zheng et al. 2024,
            # arXiv:2409.02908).
            noise = torch.rand(score.shape, generator=chance, dtype=torch.float64)
            guess = (truncated(score / way.temperature, way).double() - noise.log().neg().log()).argmax(-1)
        at = guess[:, None]
        sure = score.log_softmax(-1).gather(1, at)[:, 0]
        if way.remasking == "random":
            sure = torch.rand(len(guess), generator=chance)
        return guess, own.log_softmax(-1).gather(1, at)[:, 0], sure

    def _settle(self, out: Draft, words: Unrolled, settled: int, room: int, stops: Sequence[str]) -> None:
        """One more token has nothing masked before it: the text grows, and may be over."""
        newest = out.canvas[settled - 1]
        if newest in self.stops:
            out.reason = "stop"
        else:
            words.add(newest)
            out.reason = "length" if settled == room else ""
        if out.reason:
            words.finish()
        places = [place for stop in stops if (place := words.text.find(stop)) >= 0]
        if places:
            out.reason = "stop"
        out.text = words.text[: min(places, default=None)]


def writer(model: Model, decode: Decode, stops: Sequence[int], slots: int = 16) -> Sampler | Unmasker:
    """What writes as the model was trained to: left to right, or by unmasking."""
    if "text_diffusion" in model.served:
        return Unmasker(model, decode, stops)
    return Sampler(model, decode, stops, slots=slots)


class _Reader:
    """Runs the model over a canvas; where it was trained in blocks, what is done is read once and kept."""

    def __init__(self, owner: Unmasker, prompt: int, twice: bool):
        self.owner, self.prompt, self.twice = owner, prompt, twice
        self.cache, self.held = DynamicCache(), 0

    def logits(self, token: Tensor, places: Tensor, last: int) -> Tensor:
        """Logits fp32 [rows, n, V] on the CPU at the places given, which lie in the stretch that ends at ``last``."""
        row = token[None]
        if self.twice:  # once more without the prompt
            row = torch.cat([row, row.index_fill(1, torch.arange(self.prompt), self.owner.mask)])
        row = row.to(self.owner.device)
        at = (places - 1 if self.owner.shift else places).to(self.owner.device)
        hidden = self._in_blocks(row, at, last) if self.owner.block else self._whole(row)[:, at]
        return self.owner.model.logits(hidden).float().cpu()

    def _whole(self, row: Tensor) -> Tensor:
        index = torch.arange(row.shape[1], device=row.device).expand_as(row)
        whole = torch.full_like(index, row.shape[1] - 1)
        batch = {"token": row, "position": index, "doc": torch.zeros_like(index), "reach": whole}
        return self.owner.model.hidden(Batch(batch))

    def _in_blocks(self, row: Tensor, at: Tensor, last: int) -> Tensor:
        """Reads from the first block that is not held to this one; the blocks before this one are then held."""
        size, model = self.owner.block, self.owner.model
        index = torch.arange(self.held, last, device=row.device).expand(len(row), -1)
        reach = ((index // size + 1) * size).clamp(max=last) - 1
        body: Any = model.body
        hidden = body(
            input_ids=row[:, self.held : last],
            position_ids=index + model.first_position,
            sight=Sight.decode(reach),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, at - self.held]
        self.held = (last - 1) // size * size
        self.cache.crop(self.held - last)
        return hidden


def stretches(begin: int, end: int, size: int, aligned: bool) -> list[tuple[int, int]]:
    """What is written one after the other: ``size`` tokens at a time, from the prompt's end or as blocks lie."""
    first = begin // size * size if aligned else begin
    edges = [begin, *range(first + size, end, size), end] if size else [begin, end]
    return list(pairwise(edges))


def shares(sizes: Sequence[int], steps: int) -> list[int]:
    """How many of ``steps`` passes each stretch gets: at least one, at most one a token; 0 steps are one a token."""
    extra = max(0, min(steps or sum(sizes), sum(sizes)) - len(sizes))
    spare = max(1, sum(sizes) - len(sizes))
    edges = [extra * tokens // spare for tokens in accumulate((size - 1 for size in sizes), initial=0)]
    return [1 + b - a for a, b in pairwise(edges)]


def schedule(masked: int, passes: int) -> list[int]:
    """How many tokens each pass keeps: the same number, the remainder first."""
    return [masked // passes + (n < masked % passes) for n in range(passes)]


def truncated(logits: Tensor, way: Sampling) -> Tensor:
    """Logits [n, V] with -inf where ``top_k``, ``top_p`` and ``min_p`` leave a token no chance; see ``choose``."""
    top, token = logits.softmax(-1).sort(descending=True)
    keep = torch.arange(top.shape[1]) < (way.top_k or top.shape[1])
    top = top * keep / (top * keep).sum(-1, keepdim=True)
    keep = keep & (top.cumsum(-1) - top < way.top_p) & (top >= way.min_p * top[:, :1])
    return logits.masked_fill(~torch.zeros_like(keep).scatter(1, token, keep), -math.inf)


def sketch(draft: Draft, decode: Decode, mask: int, stops: Sequence[int]) -> str:
    """The answer as far as it is known, a veil over each token that is not."""
    ended = next((place for place, token in enumerate(draft.canvas) if token in stops), len(draft.canvas))
    runs = groupby(draft.canvas[:ended], lambda token: token == mask)
    return "".join(VEIL * len(list(run)) if veiled else decode(list(run)) for veiled, run in runs)
