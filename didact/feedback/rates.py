"""Rates with their intervals: which model wins, and what sways people besides the answer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from didact.feedback.agreement import Vote
from didact.feedback.records import Ranking

if TYPE_CHECKING:
    from didact.feedback.standing import Said

Z = 1.959963984540054  # of a normal distribution, 95% lie within


def pairs(ranking: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, bool]]:
    """A ranking as ``(better, worse, tied)``: each two candidates once; tied ones in the order they are named."""
    for place, group in enumerate(ranking):
        for i, one in enumerate(group):
            yield from ((one, other, True) for other in group[i + 1 :])
            yield from ((one, other, False) for worse in ranking[place + 1 :] for other in worse)


@dataclass(frozen=True)
class Share:
    """How often something was so: its mean over ``rounds``, each between 0 and 1, and a 95% interval."""

    rate: float
    rounds: int

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Share:
        """The share over rounds."""
        return cls(sum(rounds) / len(rounds) if rounds else math.nan, len(rounds))

    def plain(self) -> dict[str, float | int | None]:
        """As JSON; the interval is Wilson's."""
        if not self.rounds:
            return {"rate": None, "low": None, "high": None, "rounds": 0}
        low, high = wilson(self.rate, self.rounds)
        return {"rate": self.rate, "low": low, "high": high, "rounds": self.rounds}


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a rate. Source: Wilson, JASA 22 (1927).

    For means of numbers between 0 and 1 it is too wide, never too narrow, since zeros and ones vary most.
    """
    middle = rate + Z * Z / (2 * count)
    half = Z * math.sqrt(rate * (1 - rate) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def first_shown(said: Iterable[Said]) -> Share:
    """Of answers that were ranked apart, how often the one shown earlier won; 0.5 is no bias."""
    return Share.of([rate for one in said if (rate := _earlier(one)) is not None])


def longer(said: Iterable[Said]) -> Share:
    """Of answers that were ranked apart and differ in length, how often the longer one won."""
    return Share.of([rate for one in said if (rate := _longer(one)) is not None])


def wins(said: Iterable[Said]) -> dict[str, Share]:
    """How often each model's answer beat another model's; a tie is half a win, a round of many answers counts once."""
    rounds: dict[str, list[float]] = defaultdict(list)
    for one in said:
        won: dict[str, list[float]] = defaultdict(list)
        for better, worse, tied in _pairs(one):
            models = [one.exchange.candidates[number].model for number in (better, worse)]
            if models[0] != models[1]:
                won[models[0]].append(0.5 if tied else 1.0)
                won[models[1]].append(0.5 if tied else 0.0)
        for model, found in won.items():
            rounds[model].append(sum(found) / len(found))
    return {model: Share.of(rounds[model]) for model in sorted(rounds)}


def leniency(votes: Iterable[Vote]) -> dict[str, dict[str, float | int | None]]:
    """By how much each annotator's values exceed the mean of the others' on the same things, with a 95% interval."""
    units: dict[object, dict[str, float]] = defaultdict(dict)
    for unit, annotator, value in votes:
        units[unit][annotator] = value
    above: dict[str, list[float]] = defaultdict(list)
    for given in units.values():
        total = sum(given.values())
        for annotator, value in given.items() if len(given) > 1 else ():
            above[annotator].append(value - (total - value) / (len(given) - 1))
    return {annotator: _mean(found) for annotator, found in sorted(above.items())}


def _mean(values: Sequence[float]) -> dict[str, float | int | None]:
    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "count": count}
    half = Z * math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": count}


def _pairs(one: Said) -> Iterator[tuple[int, int, bool]]:
    return pairs(one.judgement.ranking) if isinstance(one.judgement, Ranking) else iter(())


def _earlier(one: Said) -> float | None:
    """The share of this round's pairs that the answer shown earlier won; None for ties only, or an unknown order."""
    place = {number: i for i, number in enumerate(one.exchange.shown)}
    found = [place[better] < place[worse] for better, worse, tied in _pairs(one) if place and not tied]
    return sum(found) / len(found) if found else None


def _longer(one: Said) -> float | None:
    size = [len(candidate.text) for candidate in one.exchange.candidates]
    ranked = [(size[better], size[worse]) for better, worse, tied in _pairs(one) if not tied]
    found = [better > worse for better, worse in ranked if better != worse]
    return sum(found) / len(found) if found else None
