"""Two models answer the same prompts, and somebody says which answer is better without knowing whose it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from didact.measure.gaming import distinct
from didact.measure.wins import Wins, win_rate
from didact.model.encoder import positions
from didact.model.model import Model
from didact.rollout.decoder import Completion
from didact.rollout.diffusion import writer
from didact.rollout.prompts import Prompt, readable
from didact.rollout.reward.base import Answered, Reward, scores
from didact.rollout.settings import Sampling
from didact.text.render import Renderer

EVEN = 1e-6  # what two answers may differ by and be worth the same
Judge = Callable[[Sequence[Answered], Sequence[Answered]], list[float]]  # 1 where the first is better, 0.5, 0


@dataclass(frozen=True)
class Said:
    """A model's answer to each prompt."""

    answers: tuple[Completion, ...]

    def distinct(self) -> float:
        """The share of different pairs of words among all of them."""
        return distinct([out.text.split() for out in self.answers])

    def length(self) -> float:
        """Mean tokens of an answer."""
        return fmean(len(out.tokens) for out in self.answers)


def said(model: Model, renderer: Renderer, prompts: Sequence[Prompt], way: Sampling, slots: int = 16) -> Said:
    """What a model answers: each prompt with a seed of its own, the same for every model."""
    prompts = readable(prompts, positions(model.net.config))
    writes = writer(model, partial(renderer.decode, skip_special=True), renderer.stops, slots)
    return Said(tuple(writes.generate([list(one.tokens) for one in prompts], way)))


def answered(prompts: Sequence[Prompt], what: Said) -> list[Answered]:
    """Answers as rewards read them."""
    return [
        Answered(one.messages, out.text.strip(), one.record, out.reason == "stop", one.where)
        for one, out in zip(prompts, what.answers, strict=True)
    ]


def by_rewards(rewards: Sequence[tuple[Reward, float]]) -> Judge:
    """Judges by the weighted sum of rewards: each answer alone, so no place is better than the other."""

    def judge(ours: Sequence[Answered], theirs: Sequence[Answered]) -> list[float]:
        both = [*ours, *theirs]
        each = [(weight, scores(reward, both)) for reward, weight in rewards]
        worth = [sum(weight * values[i] for weight, values in each) for i in range(len(both))]
        pairs = zip(worth[: len(ours)], worth[len(ours) :], strict=True)
        return [0.5 if abs(a - b) <= EVEN else float(a > b) for a, b in pairs]

    return judge


def judged(ours: Said, theirs: Said, prompts: Sequence[Prompt], judge: Judge, seed: int) -> Wins:
    """The win rate of ours over theirs."""
    wins = judge(answered(prompts, ours), answered(prompts, theirs))
    lengths = [(len(a.text), len(b.text)) for a, b in zip(ours.answers, theirs.answers, strict=True)]
    return win_rate(wins, lengths, seed)


def facts(wins: Wins, ours: Said, theirs: Said) -> dict[str, Any]:
    """What is known of a duel, as JSON."""
    return {
        "prompts": wins.count,
        "win_rate": wins.rate,
        "interval": [wins.low, wins.high],
        "ties": wins.ties,
        "win_rate_at_equal_length": wins.controlled,
        "interval_at_equal_length": [wins.controlled_low, wins.controlled_high],
        "tokens": [ours.length(), theirs.length()],
        "distinct_2": [ours.distinct(), theirs.distinct()],
    }
