"""What people think now: the judgements that were neither replaced, nor taken back, nor given anew."""

from __future__ import annotations

from dataclasses import dataclass

from didact.feedback.records import Exchange, Judgement, Retraction
from didact.feedback.store import Store


@dataclass(frozen=True)
class Said:
    """One judgement, the exchange it is of, and the ids of both."""

    exchange: Exchange
    judgement: Judgement
    exchange_id: str
    id: str


def standing(store: Store) -> list[Said]:
    """The judgements that stand, in the order they came.

    Of two by one person, of one kind, of one candidate, the later one stands, also where it does not name the other.
    """
    exchanges: dict[str, Exchange] = {}
    last: dict[tuple[object, ...], tuple[str, Judgement]] = {}
    replaced = set()
    for kept in store.each("exchange", "judgement"):
        record = kept.record
        if isinstance(record, Exchange):
            exchanges[kept.id] = record
        elif isinstance(record, Judgement):
            replaced.add(record.replaces)
            about = (record.annotator, record.exchange, record.kind, getattr(record, "candidate", None))
            last.pop(about, None)
            last[about] = kept.id, record
    return [
        Said(exchanges[judgement.exchange], judgement, judgement.exchange, id)
        for id, judgement in last.values()
        if id not in replaced and not isinstance(judgement, Retraction)
        if judgement.exchange in exchanges  # written while we read, it can be missed
    ]
