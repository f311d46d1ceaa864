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
select r.id
from feedback_record r
left join feedback_record e on e.type = 'exchange' and (e.id = r.exchange or e.review = r.id)
left join feedback_record j on j.type = 'judgement' and j.exchange = e.id and j.kind <> 'retraction'
  and not exists (select 1 from feedback_record n where n.replaces = j.id)
where r.type = 'review'
group by r.id, r.seq, r.wanted
having count(distinct case when j.kind <> 'skip' then j.annotator end) < r.wanted
  and count(case when j.annotator = :annotator then 1 end) = 0
order by count(distinct case when j.kind <> 'skip' then j.annotator end), r.seq
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
