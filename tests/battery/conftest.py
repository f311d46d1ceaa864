"""A world for each case, and the command line in this process."""

import shlex
import sys
from pathlib import Path

import pytest

from didact import cli
from tests.battery.base import make_base, make_world


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def world(tmp_path, base, monkeypatch) -> Path:
    make_world(tmp_path, base)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def didact(monkeypatch, capfd):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def call(args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["didact", *shlex.split(args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return call
