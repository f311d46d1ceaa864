"""One tiny model and one server for the tests that leave it as it is."""

import pytest

from tests.battery.base import make_base
from tests.run.speakers import speaker
from tests.serve.running import running, served

ENDLESS = {"\n": "a", "a": "b", "b": "a"}


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """Says ab for ever."""
    return speaker(tmp_path_factory.mktemp("endless") / "model", ENDLESS, positions=100_000)


@pytest.fixture(scope="session")
def server(base):
    with running(served(base)) as up:
        yield up
