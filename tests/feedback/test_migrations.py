"""A database of an older Didact is brought up to date and keeps what it holds."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import orjson
import pytest
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url

from didact.errors import UsageProblem
from didact.feedback import tables
from didact.feedback.records import Review
from didact.feedback.review import enqueue, following
from didact.feedback.store import Store
from tests.feedback.samples import exchange


def raw(place):
    return create_engine(make_url(place) if "://" in place else f"sqlite:///{place}")


def old(place) -> None:
    """A database as the first migration made it, with one exchange in it."""
    with raw(place).begin() as connection:
        tables.migrate(connection, "0001", place)
        row = {"id": "x1", "time": "2026-01-01T00:00:00.000000Z", "type": "exchange"}
        row["body"] = orjson.dumps(exchange().model_dump(mode="json")).decode()
        connection.execute(
            text("insert into feedback_record (id, time, type, body) values (:id, :time, :type, :body)"), row
        )


def test_an_old_database_is_upgraded_and_used(place):
    old(place)
    assert "wanted" not in {column["name"] for column in inspect(raw(place)).get_columns("feedback_record")}
    with Store.open(place) as store:
        assert store.get("x1").record == exchange()
        enqueue(store, [Review(exchange="x1")])
        assert following(store, "ann").record.exchange == "x1"


def test_many_processes_upgrade_it_once(place):
    old(place)
    with ProcessPoolExecutor(6, mp_context=get_context("fork")) as pool:
        assert list(pool.map(opened, [place] * 6)) == [1] * 6


def opened(place) -> int:
    with Store.open(place) as store:
        return len(list(store.each()))


def test_the_newest_migration_is_the_one_the_code_knows():
    config = Config()
    config.set_main_option("script_location", str(tables.Path(tables.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [tables.HEAD]


def test_the_tables_are_what_the_models_say(store):
    from alembic.autogenerate import compare_metadata

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": tables.VERSION_TABLE})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_a_database_of_a_newer_didact_is_left_alone(place):
    Store.open(place).close()
    with raw(place).begin() as connection:
        connection.execute(text("update feedback_version set version_num = '9999'"))
    with pytest.raises(UsageProblem, match="newer Didact"):
        Store.open(place)
