"""The review queue: what is still to be judged, the least judged first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

from didact.feedback.records import Review
from didact.feedback.store import Kept, Store, complaints, text

# An item's judgements are those of its exchange and of the exchanges made for it, unless replaced or taken back. A
# person who skipped an item is not asked again, and does not count as one who judged it.
_WAITING = """
with about(item, exchange) as (
  select id, exchange from feedback_record where type = 'review' and exchange is not null
  union all
  select review, id from feedback_record where review is not null
), judged(item, annotator, kind) as (
  select about.item, j.annotator, j.kind from about join feedback_record j on j.exchange = about.exchange
  where j.kind <> 'retraction' and not exists (select 1 from feedback_record n where n.replaces = j.id)
), counted(item, people, mine) as (
  select item, count(distinct case when kind <> 'skip' then annotator end),
    count(case when annotator = :annotator then 1 end)
  from judged group by item
), waiting(id, seq, people) as (
  select r.id, r.seq, coalesce(people, 0) from feedback_record r left join counted on counted.item = r.id
  where r.type = 'review' and coalesce(people, 0) < r.wanted and coalesce(mine, 0) = 0
)
"""
_NEXT = _WAITING + "select id from waiting order by people, seq limit 1"
_LEFT = _WAITING + "select count(*) from waiting"


def enqueue(store: Store, items: Iterable[Review]) -> list[Kept]:
    """Puts items into the queue, all or none of them; a prompt or exchange that is there already is not put twice."""
    return store.put([Kept.now(item, _key(item)) for item in items])


def following(store: Store, annotator: str) -> Kept | None:
    """The item least judged that this annotator has neither judged nor skipped, of equals the oldest."""
    id = _scalar(store, _NEXT, annotator)
    return None if id is None else store.get(id)


def left(store: Store, annotator: str) -> int:
    """How many items wait for this annotator."""
    return _scalar(store, _LEFT, annotator)


def _scalar(store: Store, query: str, annotator: str) -> Any:
    with complaints(store.name), store.engine.connect().execution_options(reading=True) as connection:
        return connection.execute(text(query), {"annotator": annotator}).scalar()


def _key(item: Review) -> str:
    """The same thing to review has the same key, and so has one that is wanted a different number of times."""
    return "review:" + hashlib.sha256(orjson.dumps(item.model_dump(mode="json"))).hexdigest()
