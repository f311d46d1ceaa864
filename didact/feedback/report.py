"""What the feedback comes to: how much of it, how far people agree, who sways how, which model wins."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from didact.feedback import rates
from didact.feedback.agreement import Level, Vote, alpha, dawid_skene, table
from didact.feedback.records import Forgotten, Ranking, Rating, Thumb
from didact.feedback.standing import Said, standing
from didact.feedback.store import Store

LEVELS: dict[str, tuple[Level, ...]] = {
    "thumb": ("nominal",),
    "rating": ("nominal", "ordinal", "interval"),
    "ranking": ("nominal", "ordinal"),
}
CLASSES = {"thumb": [0.0, 1.0], "rating": [1.0, 2.0, 3.0, 4.0, 5.0], "ranking": [-1.0, 0.0, 1.0]}


class Kept:
    """The report of a store, made again only when the store has changed."""

    def __init__(self, store: Store):
        self.store, self.lock = store, Lock()
        self.state: tuple[int, int] | None = None
        self.said: dict[str, Any] = {}

    def report(self) -> dict[str, Any]:
        """As ``report``; who asks while it is made waits for it."""
        with self.lock:
            state = self.store.state()
            if state != self.state:
                self.said, self.state = report(self.store), state
            return self.said


def report(store: Store) -> dict[str, Any]:
    """Everything, as JSON: ``volume``, ``agreement``, ``bias``, ``win_rates`` and ``annotators``."""
    said = standing(store)
    votes = {kind: _votes(said, kind) for kind in LEVELS}
    skill = {kind: _skill(votes[kind], CLASSES[kind]) for kind in LEVELS}
    lenient = {kind: rates.leniency(votes[kind]) for kind in ("thumb", "rating")}
    people: dict[str, list[Said]] = defaultdict(list)
    for one in said:
        people[one.judgement.annotator].append(one)
    return {
        "volume": _volume(store, len(people)),
        "agreement": {kind: _agreement(votes[kind], levels) for kind, levels in LEVELS.items()},
        "bias": _bias(said),
        "win_rates": {model: share.plain() for model, share in rates.wins(said).items()},
        "annotators": {
            name: {
                "judgements": len(people[name]),
                "skill": {kind: found[name] for kind, found in skill.items() if name in found},
                "leniency": {kind: found[name] for kind, found in lenient.items() if name in found},
                **_bias(people[name]),
                "win_rates": {model: share.plain() for model, share in rates.wins(people[name]).items()},
            }
            for name in sorted(people)
        },
    }


def _volume(store: Store, annotators: int) -> dict[str, Any]:
    """Counts of records, in all and by day (UTC); corrections and retractions count as what they are: records."""
    kinds: Counter[str] = Counter()
    days: dict[str, Counter[str]] = defaultdict(Counter)
    for day, type, kind, count in store.counts():
        kinds[kind] += count
        days[day][type] += count
    forgotten = sum(kept.record.count for kept in store.each("forgotten") if isinstance(kept.record, Forgotten))
    by_day = [{"day": day, **days[day]} for day in sorted(days)]
    return {"records": dict(sorted(kinds.items())), "annotators": annotators, "forgotten": forgotten, "by_day": by_day}


def _votes(said: Sequence[Said], kind: str) -> list[Vote]:
    """Who said what of what; of each two candidates ranked 1 where the first numbered is better, 0 a tie, else -1."""
    votes: list[Vote] = []
    for one in said:
        judgement = one.judgement
        if judgement.kind != kind:
            continue
        match judgement:
            case Thumb():
                votes.append(((one.exchange_id, judgement.candidate), judgement.annotator, float(judgement.up)))
            case Rating():
                votes.append(((one.exchange_id, judgement.candidate), judgement.annotator, float(judgement.rating)))
            case Ranking():
                for better, worse, tied in rates.pairs(judgement.ranking):
                    unit = (one.exchange_id, min(better, worse), max(better, worse))
                    votes.append((unit, judgement.annotator, 0.0 if tied else 1.0 if better < worse else -1.0))
    return votes


def _agreement(votes: Sequence[Vote], levels: Sequence[Level]) -> dict[str, Any]:
    values, _, annotators = table(votes)
    shared = int(((~np.isnan(values)).sum(0) > 1).sum()) if votes else 0
    found = {level: alpha(values, level) if shared else math.nan for level in levels}
    plain = {level: None if math.isnan(value) else value for level, value in found.items()}
    return {"alpha": plain, "annotators": len(annotators), "votes": len(votes), "judged_by_several": shared}


def _skill(votes: Sequence[Vote], classes: Sequence[float]) -> dict[str, dict[str, float | int]]:
    """Dawid and Skene's accuracy of each annotator, over what several people judged."""
    values, _, annotators = table(votes)
    values = values[:, (~np.isnan(values)).sum(0) > 1]
    if not values.size:
        return {}
    said = np.full(values.shape, -1)
    for number, value in enumerate(classes):
        said[values == value] = number
    accuracy, counts = dawid_skene(said, len(classes)).accuracy, (said >= 0).sum(1)
    found = zip(annotators, accuracy, counts, strict=True)
    return {name: {"accuracy": float(p), "votes": int(count)} for name, p, count in found if count}


def _bias(said: Sequence[Said]) -> dict[str, Any]:
    return {"first_shown": rates.first_shown(said).plain(), "longer": rates.longer(said).plain()}
