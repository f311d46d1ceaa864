"""How far a reward model can be trusted: how often it agrees with people it never learned from, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp
from typing import Any

from didact.errors import GateFailed
from didact.feedback.rates import wilson

BINS = 5  # of how sure it is, from 50% to 100%


@dataclass(frozen=True)
class Judgement:
    """Two answers to one prompt: ``gap`` is the better one's reward above the other's."""

    prompt: int
    gap: float


def judgements(
    prompt: Sequence[int], of: Sequence[int], score: Sequence[float], reward: Sequence[float]
) -> list[Judgement]:
    """All pairs of answers that one example judged differently.

    ``of`` is each answer's example, ``prompt`` its prompt.
    """
    found, members = list[Judgement](), dict[int, list[int]]()
    for answer, example in enumerate(of):
        members.setdefault(example, []).append(answer)
    for answers in members.values():
        for i, j in combinations(answers, 2):
            if score[i] != score[j] and score[i] == score[i] and score[j] == score[j]:
                better, worse = (i, j) if score[i] > score[j] else (j, i)
                found.append(Judgement(prompt[i], reward[better] - reward[worse]))
    return found


def facts(found: Sequence[Judgement], scale: float) -> dict[str, Any]:
    """Accuracy with a 95% interval, and calibration where P(better) = sigmoid(scale * gap).

    Pairs of one prompt are not independent, so Wilson's interval counts prompts, each with its share of right pairs.
    ``calibration_error`` is the mean over pairs of |how sure - how often right| of their bin (Guo et al. 2017,
    arXiv:1706.04599, equation 3).
    """
    each = dict[int, list[float]]()
    for one in found:
        each.setdefault(one.prompt, []).append(0.5 if one.gap == 0 else float(one.gap > 0))
    accuracy = sum(sum(right) / len(right) for right in each.values()) / len(each)
    low, high = wilson(accuracy, len(each))
    table = list(_bins(found, scale))
    error = sum(row["pairs"] * abs(row["sure"] - row["right"]) for row in table) / len(found)
    numbers = {"accuracy": accuracy, "low": low, "high": high, "pairs": len(found), "prompts": len(each)}
    return {**numbers, "calibration_error": error, "calibration": table}


def _bins(found: Sequence[Judgement], scale: float) -> Iterator[dict[str, float]]:
    """For the pairs of each bin: how many, how sure the model is of its choice on average, how often that is right."""
    sure = [1 / (1 + exp(-min(abs(scale * one.gap), 500.0))) for one in found]
    place = [min(int((p - 0.5) * 2 * BINS), BINS - 1) for p in sure]
    for number in range(BINS):
        mine = [i for i in range(len(found)) if place[i] == number]
        if mine:
            right = sum(0.5 if found[i].gap == 0 else float(found[i].gap > 0) for i in mine) / len(mine)
            yield {"pairs": len(mine), "sure": sum(sure[i] for i in mine) / len(mine), "right": right}


def told(what: str, one: Mapping[str, Any]) -> str:
    """The facts in a line."""
    return (
        f"{what}: right on {one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%}) of {one['pairs']:,} pairs of "
        f"{one['prompts']:,} prompts; calibration error {one['calibration_error']:.3f}"
    )


def heldout(facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is known of other prompts judged by people it learned from; else of other people."""
    return facts.get("prompts") or facts.get("people")


def check(facts: Mapping[str, Any], where: str) -> None:
    """Raises GateFailed for a reward model that is no better than chance on pairs it has not learned from.

    One that was not trained here, and says nothing of itself, passes.
    """
    one = heldout(facts)
    if one is None and "scale" in facts:
        what = "this reward model was measured on nothing that it did not learn from"
        raise GateFailed(what, where=where, remedy="give its stage heldout or holdout, or set force: true")
    if one and one["low"] <= 0.5:
        found = f"right on {one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%}) of held-out pairs"
        remedy = "give it more judgements or a larger model, or set force: true"
        raise GateFailed(f"this reward model is no better than chance ({found})", where=where, remedy=remedy)
