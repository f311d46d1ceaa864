"""One tiny model and one server for the tests that leave it as it is."""

import json
import shutil

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


@pytest.fixture(scope="session")
def wide(base, tmp_path_factory):
    """The tiny model with room for passages."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return served(folder)
