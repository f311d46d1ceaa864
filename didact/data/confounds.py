"""What may sway people besides the answer, counted before anything is learned from them: length, order, ties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from didact.data.example import Answers, Said
from didact.feedback.rates import Share, wilson


@dataclass
class Confounds:
    """Counts over judged answers; see ``facts``."""

    prompts: int = 0
    answers: int = 0
    pairs: int = 0
    ties: int = 0
    same: int = 0
    longer: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    shown_first: list[float] = field(default_factory=list)
    ordered_by_worth: bool = True
    people: dict[str, int] = field(default_factory=dict)
    liked: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    def add(self, example: Answers) -> None:
        """Counts one prompt's answers."""
        judged = [(said, v) for said, v in zip(example.answers, example.values, strict=True) if v == v]
        values, size = [value for _, value in judged], [len(_text(said)) for said, _ in judged]
        self.prompts, self.answers = self.prompts + 1, self.answers + len(judged)
        self.people[example.annotator] = self.people.get(example.annotator, 0) + 1
        self.ordered_by_worth &= values == sorted(values, reverse=True)
        if len(judged) == 1:
            (self.liked if values[0] > 0 else self.others).append(size[0])
        places = [place for place, v in zip(example.places, example.values, strict=False) if v == v]
        longer, first, shown = list[bool](), list[bool](), list[bool]()
        for one, other in combinations(range(len(judged)), 2):
            better, worse = (one, other) if values[one] > values[other] else (other, one)
            if values[one] == values[other]:
                self.ties += 1
            elif _text(judged[one][0]) == _text(judged[other][0]):
                self.same += 1
            else:
                first.append(better < worse)
                shown += [places[better] < places[worse]] if places else []
                longer += [size[better] > size[worse]] if size[better] != size[worse] else []
        self.pairs += len(first)
        self.first += [fmean(first)] if first else []
        self.shown_first += [fmean(shown)] if shown else []
        self.longer += [fmean(longer)] if longer else []

    def facts(self) -> dict[str, Any]:
        """Counts, and rates with Wilson's 95% interval.

        Place is that in which people saw the answers; of data that do not know it, that in the data, unless it is the
        order of worth, which says nothing.

        The pairs of one example are not independent, so a rate is a mean over examples. ``same`` are pairs of which one
        was found better though they are the same text: they are no ``pairs``, and teach nothing.
        """
        known = [name for name in self.people if name]
        found: dict[str, Any] = {"prompts": self.prompts, "answers": self.answers, "annotators": len(known)}
        if self.pairs or self.ties or self.same:
            found |= {"pairs": self.pairs, "ties": self.ties, "longer": _rate(self.longer)}
            found |= {"same": self.same} if self.same else {}
            if self.shown_first:
                found["shown_first"] = _rate(self.shown_first)
            elif not self.ordered_by_worth:
                found["first"] = _rate(self.first)
        if self.liked or self.others:
            found |= {"liked": len(self.liked), "others": len(self.others), "liked_longer": self._liked_longer()}
        return {name: value for name, value in found.items() if value is not None}

    def lines(self) -> list[str]:
        """What a person should know before training."""
        facts = self.facts()
        who = f", by {facts['annotators']:,} people" if facts["annotators"] else ""
        if "pairs" in facts:
            said = f"{facts['pairs']:,} pairs of answers to {self.prompts:,} prompts, {self.ties:,} ties{who}"
            said += f"; {self.same:,} more are of one text twice and teach nothing" if self.same else ""
            rates = [f"the longer one won {_said(facts['longer'])}"] if "longer" in facts else []
            rates += [f"the one shown first {_said(facts['shown_first'])}"] if "shown_first" in facts else []
            rates += [f"the first one {_said(facts['first'])}"] if "first" in facts else []
        else:
            said = f"{self.answers:,} answers, {len(self.liked):,} of them liked{who}"
            rates = []
            if "liked_longer" in facts:
                rates = [f"a liked one is longer than another in {_said(facts['liked_longer'])}"]
        swayed = [facts[name] for name in ("longer", "shown_first", "first", "liked_longer") if name in facts]
        plain = all(rate["low"] <= 0.5 <= rate["high"] for rate in swayed)
        if not rates:
            return [said]
        return [said, "; ".join(rates) + (": nothing besides the answer shows" if plain else ", where 50% is no bias")]

    def _liked_longer(self) -> dict[str, float | int] | None:
        """How often a liked answer is longer than one that is not, of all pairs (Mann-Whitney's U), ties half."""
        if not self.liked or not self.others:
            return None
        others = np.sort(self.others)
        below, to = np.searchsorted(others, self.liked, "left"), np.searchsorted(others, self.liked, "right")
        rate = float((below + to).mean() / 2 / len(others))
        count = min(len(self.liked), len(self.others))  # as many as are independent
        low, high = wilson(rate, count)
        return {"rate": rate, "low": low, "high": high, "rounds": count}


def confounds(examples: Iterable[object]) -> Confounds:
    """The counts over all examples that were judged."""
    found = Confounds()
    for example in examples:
        if isinstance(example, Answers):
            found.add(example)
    return found


def _rate(shares: Sequence[float]) -> dict[str, Any] | None:
    return Share.of(shares).plain() if shares else None


def _said(rate: Mapping[str, float]) -> str:
    return f"{rate['rate']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"


def _text(said: Said) -> str:
    return said if isinstance(said, str) else "".join(str(turn["content"] or "") for turn in said)
