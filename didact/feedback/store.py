"""The store: records go in once and stay as they are; what corrects one is a new record that points at it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from didact.errors import DataProblem, MissingExtra
from didact.feedback.place import place
from didact.feedback.records import (
    RECORD,
    Edit,
    Exchange,
    Forgotten,
    Judgement,
    Ranking,
    Rating,
    Record,
    Retraction,
    Review,
    Thumb,
)

try:
    from sqlalchemy import Connection, Engine, insert, select, text
    from sqlalchemy.exc import IntegrityError

    from didact.feedback.tables import Row, complaints, connect
except ImportError as error:
    raise MissingExtra("sqlalchemy and alembic", "serve", "the feedback store") from error

T = TypeVar("T")
PAGE = 500  # records read at once
ATTEMPTS = 10  # of a transaction that meets another on its way


class Unknown(DataProblem):
    """A record points at one that is not there."""


class Conflict(DataProblem):
    """The record contradicts one that is there."""


@dataclass(frozen=True)
class Kept:
    """A record as it is kept: its id, when it came (UTC), and the key under which a repeated request finds it."""

    id: str
    time: str
    record: Record
    key: str | None = None

    @classmethod
    def now(cls, record: Record, key: str | None = None) -> Kept:
        """A new record."""
        return cls(uuid.uuid4().hex, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", record, key)

    def plain(self) -> dict[str, Any]:
        """As JSON: what is known of the record, then what it says."""
        return {"id": self.id, "time": self.time, **self.record.model_dump(mode="json")}


class Store:
    """Feedback in a database; any number of threads and processes may have it open.

    ``add`` returns when the record is on the disk. Everything raises ResourceProblem, in one line, when the database
    cannot be used.
    """

    def __init__(self, engine: Engine, name: str):
        self.engine, self.name = engine, name

    @classmethod
    def open(cls, where: str | None = None) -> Store:
        """Opens the store at a path or URL (see ``place``), makes it where there is none, and brings it up to date."""
        return cls(*connect(place(where)))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the database go."""
        self.engine.dispose()

    # --- writing -----------------------------------------------------------------------------------------

    def add(self, record: Record, key: str | None = None) -> Kept:
        """Keeps a record, on the disk when this returns; the same key again returns what was kept the first time.

        Raises Unknown where it points at nothing, Conflict for a key used for another record and a judgement that was
        replaced before, DataProblem for candidates that the exchange does not have.
        """
        return self.put([Kept.now(record, key)])[0]

    def put(self, kept: Iterable[Kept]) -> list[Kept]:
        """Keeps records under their own ids and times, all or none of them; those that are there already are passed."""
        wanted = list(kept)
        return self._whole(lambda connection: [_put(connection, one) for one in wanted])

    def forget(self, annotator: str) -> int:
        """Removes what a person wrote and what rests on it; returns how many records that were.

        This is the one exception to "append only": the exchanges they asked for, the judgements they gave, what they
        put into the queue, and others' judgements of those exchanges, which speak of them. A record without content
        says how many and when.
        """

        def remove(connection: Connection) -> int:
            count = len(connection.execute(text(_FORGET), {"annotator": annotator}).all())
            if count:
                _put(connection, Kept.now(Forgotten(count=count)))
            return count

        count = self._whole(remove)
        with complaints(self.name):
            self._wipe()
        return count

    def _whole(self, work: Callable[[Connection], T]) -> T:
        """Does all of the work or none of it; again, where another process was first, whose writing is now seen."""
        with complaints(self.name):
            for _ in range(ATTEMPTS - 1):
                with suppress(IntegrityError), self.engine.begin() as connection:
                    return work(connection)
            with self.engine.begin() as connection:
                return work(connection)

    def _wipe(self) -> None:
        """Takes removed records out of what the database keeps beside its tables."""
        if self.engine.dialect.name == "sqlite":
            connection = self.engine.raw_connection()
            try:
                connection.cursor().execute("pragma wal_checkpoint(truncate)")
            finally:
                connection.close()
        else:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("vacuum feedback_record"))

    # --- reading -----------------------------------------------------------------------------------------

    def get(self, id: str) -> Kept:
        """The record of an id. Raises Unknown."""
        with complaints(self.name), self._reading() as connection:
            found = _one(connection, Row.id == id)
        if found is None:
            raise Unknown(f"there is no record {id[:80]!r}", where=self.name)
        return found

    def each(self, *types: str) -> Iterator[Kept]:
        """All records, or those of some types, in the order they came."""
        last = 0
        while True:
            asked = select(Row.seq, Row.id, Row.time, Row.key, Row.body).where(Row.seq > last)
            asked = asked.where(Row.type.in_(types)) if types else asked
            with complaints(self.name), self._reading() as connection:
                rows = connection.execute(asked.order_by(Row.seq).limit(PAGE)).all()
            yield from map(_kept, rows)
            if len(rows) < PAGE:
                return
            last = rows[-1].seq

    def state(self) -> tuple[int, int]:
        """What changes whenever a record comes or goes: the last one's number, and how many there are."""
        with complaints(self.name), self._reading() as connection:
            last, count = connection.execute(text("select coalesce(max(seq), 0), count(*) from feedback_record")).one()
        return last, count

    def counts(self) -> list[tuple[str, str, str, int]]:
        """How many records came each day, ``(day, type, kind, count)``; the kind of what has none is its type."""
        with complaints(self.name), self._reading() as connection:
            return [tuple(row) for row in connection.execute(text(_COUNT))]

    def _reading(self) -> Connection:
        return self.engine.connect().execution_options(reading=True)


_COUNT = """
select substr(time, 1, 10), type, coalesce(kind, type), count(*) from feedback_record group by 1, 2, 3
"""
_FORGET = """
with recursive doomed(id) as (
  select id from feedback_record where annotator = :annotator
  union
  select r.id from feedback_record r join doomed d on r.exchange = d.id or r.review = d.id or r.replaces = d.id
)
delete from feedback_record where id in (select id from doomed) returning id
"""


def _put(connection: Connection, kept: Kept) -> Kept:
    """Inserts the record unless it is there, once all it says of others is true."""
    if there := _there(connection, kept):
        return there
    record = kept.record
    _check(connection, record)
    row = {"id": kept.id, "key": kept.key, "time": kept.time, "body": _body(record), "type": record.type}
    for name in ("kind", "annotator", "exchange", "replaces", "review", "wanted"):
        row[name] = getattr(record, name, None)
    connection.execute(insert(Row), row)
    return kept


def _there(connection: Connection, kept: Kept) -> Kept | None:
    """The record, where it was kept before. Raises Conflict where its id or key is another record's."""
    found = _one(connection, Row.id == kept.id)
    if found is None and kept.key is not None:
        found = _one(connection, Row.key == kept.key)
    if found and found.record != kept.record:
        raise Conflict("this id or key is of another record", remedy="give a new record a key of its own")
    return found


def _check(connection: Connection, record: Record) -> None:
    if isinstance(record, Exchange):
        if record.review:
            _pointed(connection, record.review, Review, "review")
        return
    if isinstance(record, Forgotten) or record.exchange is None:
        return
    exchange = _pointed(connection, record.exchange, Exchange, "exchange")
    if not isinstance(record, Review):
        _check_candidates(record, exchange)
        if isinstance(record, Retraction) and not record.replaces:
            raise DataProblem("a retraction says which judgement it replaces")
        if record.replaces:
            _check_replaced(connection, record, record.replaces)


def _pointed(connection: Connection, id: str, wanted: type[Record], name: str) -> Any:
    """The record that a field points at."""
    found = _one(connection, Row.id == id)
    if found is None or not isinstance(found.record, wanted):
        raise Unknown(f"there is no {name} {id!r}")
    return found.record


def _check_candidates(judgement: Judgement, exchange: Exchange) -> None:
    """A judgement of answers nobody gave says nothing."""
    count = len(exchange.candidates)
    numbers: Sequence[int | None] = ()
    match judgement:
        case Ranking():
            if sorted(judgement.flat) != list(range(count)):
                raise DataProblem(f"a ranking names each of the {count} candidates once", remedy="numbers begin at 0")
        case Thumb() | Rating() | Edit():
            numbers = [judgement.candidate]
    if any(number is not None and number >= count for number in numbers):
        raise DataProblem(f"there is no candidate {numbers[0]}; the exchange has {count}", remedy="numbers begin at 0")


def _check_replaced(connection: Connection, judgement: Judgement, id: str) -> None:
    """One corrects what one said oneself, of the same exchange, and each judgement once."""
    old = _one(connection, Row.id == id)
    if old is None or not isinstance(old.record, Judgement):
        raise Unknown(f"there is no judgement {id!r}")
    if (old.record.annotator, old.record.exchange) != (judgement.annotator, judgement.exchange):
        raise Conflict("a judgement is replaced by the same annotator's, of the same exchange")
    if newer := _one(connection, Row.replaces == id):
        raise Conflict(f"judgement {id} was replaced before", remedy=f"replace {newer.id} instead")


def _one(connection: Connection, condition: Any) -> Kept | None:

    row = connection.execute(select(Row.id, Row.time, Row.key, Row.body).where(condition)).first()
    return None if row is None else _kept(row)


def _kept(row: Any) -> Kept:
    return Kept(row.id, row.time, RECORD.validate_json(row.body), row.key)


def _body(record: Record) -> str:
    return orjson.dumps(record.model_dump(mode="json")).decode()
