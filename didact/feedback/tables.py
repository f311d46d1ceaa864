"""The one table of the store, and the database behind it: opened, brought up to date, its complaints in one line."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    String,
    Text,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from didact.errors import MissingExtra, ResourceProblem, UsageProblem

HEAD = "0002"  # the newest of migrations/versions; a database that says so needs no alembic
VERSION_TABLE = "feedback_version"
PATIENCE = 60.0  # seconds to wait for another writer
_LOCK = 0x6469646163  # of PostgreSQL, held while the tables are changed


class Base(DeclarativeBase):
    """Tables of the store."""


class Row(Base):
    """One record. ``body`` is its JSON; the other columns are what is asked for, ``seq`` the order of arrival."""

    __tablename__ = "feedback_record"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  a number is never given twice

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    key: Mapped[str | None] = mapped_column(String(200), unique=True)
    time: Mapped[str] = mapped_column(String(32))
    type: Mapped[str] = mapped_column(String(16), index=True)
    kind: Mapped[str | None] = mapped_column(String(16))
    annotator: Mapped[str | None] = mapped_column(String(64), index=True)
    exchange: Mapped[str | None] = mapped_column(String(64), ForeignKey("feedback_record.id"), index=True)
    replaces: Mapped[str | None] = mapped_column(String(64), ForeignKey("feedback_record.id"), unique=True)
    body: Mapped[str] = mapped_column(Text)
    review: Mapped[str | None] = mapped_column(String(64), ForeignKey("feedback_record.id"), index=True)
    wanted: Mapped[int | None] = mapped_column(Integer)


def connect(where: str) -> tuple[Engine, str]:
    """The database at a path or URL, its tables up to date, and its name without a password.

    Raises UsageProblem for a URL of another kind or a database of a newer Didact, ResourceProblem where it cannot be
    opened, MissingExtra without psycopg.
    """
    try:
        url = make_url(where) if "://" in where else URL.create("sqlite", database=str(Path(where).expanduser()))
        name = url.render_as_string(hide_password=True) if "://" in where else where
    except ArgumentError as error:
        raise UsageProblem("not a database URL", where=where, remedy=_WANTED) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UsageProblem("feedback is kept in SQLite or PostgreSQL", where=name, remedy=_WANTED)
    with complaints(name):
        engine = _sqlite(url, name) if url.get_backend_name() == "sqlite" else _postgresql(url)
        _up_to_date(engine, name)
    return engine, name


_WANTED = "name a file, or postgresql+psycopg://user@host/database"


@contextlib.contextmanager
def complaints(name: str) -> Iterator[None]:
    """Turns what a database refuses into one line."""
    try:
        yield
    except DBAPIError as error:
        why = " ".join(str(error.orig).split())
        remedy = "name another file" if "not a database" in why else "check its disk, its permissions, its server"
        raise ResourceProblem(f"the feedback store cannot be used: {why}", where=name, remedy=remedy) from error


def _sqlite(url: URL, name: str) -> Engine:
    file = url.database
    if not file or file == ":memory:":
        raise UsageProblem("feedback in memory would be lost", where=name, remedy="name a file")
    try:
        Path(file).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceProblem(f"cannot be made here: {error.strerror}", where=file, remedy="name another") from error
    engine = create_engine(url, connect_args={"timeout": PATIENCE})

    @event.listens_for(engine, "connect")
    def settle(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not before the first change
        connection.execute(f"pragma busy_timeout = {int(PATIENCE * 1000)}")
        _write_ahead(connection)
        for pragma in ("synchronous = full", "foreign_keys = on", "secure_delete = on"):
            connection.execute(f"pragma {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # a writer that began as a reader could be refused at its first change
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("begin" if reading else "begin immediate")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turns write-ahead logging on; SQLite does not wait for its lock here, so we do."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _postgresql(url: URL) -> Engine:
    url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise MissingExtra("psycopg", "postgres", "a feedback store in PostgreSQL") from error


def _up_to_date(engine: Engine, name: str) -> None:
    """Brings the tables to ``HEAD``; of several processes that open at once one does, the others wait for it."""
    if _version(engine) != HEAD:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # SQLite's transaction holds the only lock there is
                connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            migrate(connection, "head", name)


def _version(engine: Engine) -> str | None:
    """What the database says it is, without waiting for anybody; None for a new one."""
    with engine.connect().execution_options(reading=True) as connection:
        known = inspect(connection).has_table(VERSION_TABLE)
        return connection.execute(text(f"select version_num from {VERSION_TABLE}")).scalar() if known else None


def migrate(connection: Connection, target: str, name: str) -> None:
    """Runs the migrations up to ``target`` inside the connection's transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    try:
        command.upgrade(config, target)
    except CommandError as error:
        what = "the feedback store was written by a newer Didact"
        raise UsageProblem(what, where=name, remedy="install that version, or name another store") from error
