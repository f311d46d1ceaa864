"""Every test that asks for a ``place`` or a ``store`` runs on SQLite and on PostgreSQL."""

from uuid import uuid4

import pytest

from didact.feedback.store import Store
from tests.feedback.places import postgresql, schema


@pytest.fixture(scope="session")
def server():
    with postgresql() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "feedback.sqlite")
    return schema(request.getfixturevalue("server"), f"t{uuid4().hex}")


@pytest.fixture
def store(place):
    with Store.open(place) as store:
        yield store
