"""Every test that asks for a ``place`` runs on an index in a folder and on one in PostgreSQL."""

from uuid import uuid4

import pytest

from tests.feedback.places import postgresql


@pytest.fixture(scope="session")
def server():
    with postgresql() as folder:
        yield f"postgresql://didact@/postgres?host={folder}"


@pytest.fixture(scope="module", params=["folder", "server"])
def places(request, tmp_path_factory):
    """A function to a place for a new index."""
    if request.param == "folder":
        return lambda: tmp_path_factory.mktemp("ix") / "ix"
    url = request.getfixturevalue("server")
    return lambda: f"{url}#ix{uuid4().hex}"


@pytest.fixture
def place(places):
    return places()
