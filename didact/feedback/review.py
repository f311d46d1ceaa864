"""The review queue: what is still to be judged, the least judged first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import orjson

from didact.feedback.records import Review
from didact.feedback.store import Kept, Store, complaints, text

# An item's judgements are those of its exchange and of the exchanges made for it, unless replaced or taken back. A
# person who skipped an item is not asked again, and does not count as one who judged it.
_NEXT = """
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
)
select r.id from feedback_record r left join counted on counted.item = r.id
where r.type = 'review' and coalesce(people, 0) < r.wanted and coalesce(mine, 0) = 0
order by coalesce(people, 0), r.seq
limit 1
"""


def enqueue(store: Store, items: Iterable[Review]) -> list[Kept]:
    """Puts items into the queue, all or none of them; a prompt or exchange that is there already is not put twice."""
    return store.put([Kept.now(item, _key(item)) for item in items])


def following(store: Store, annotator: str) -> Kept | None:
    """The item least judged that this annotator has neither judged nor skipped, of equals the oldest."""
    with complaints(store.name), store.engine.connect().execution_options(reading=True) as connection:
        id = connection.execute(text(_NEXT), {"annotator": annotator}).scalar()
    return None if id is None else store.get(id)


def _key(item: Review) -> str:
    """The same thing to review has the same key, and so has one that is wanted a different number of times."""
    return "review:" + hashlib.sha256(orjson.dumps(item.model_dump(mode="json"))).hexdigest()
