"""The stage crowd through a server: over HTTP people say what they say straight into a store."""

import errno
import gc
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from didact.errors import DataProblem, ResourceProblem, UsageProblem
from didact.feedback.records import Exchange
from didact.feedback.store import Store
from didact.model import uncompiled
from didact.serve import here
from didact.serve.engine import Engine
from didact.serve.state import State
from didact.serve.visit import Client
from tests.battery.base import chats
from tests.run.test_crowd import CROWD, left
from tests.run.test_life import base, world  # noqa: F401 - fixtures

SERVED = CROWD.replace("{crowd: {", "{crowd: {serve: true, ")
FORMS = ("thumbs", "ratings", "rankings", "preferences", "prompts", "people")
ALL = [f"{form}{mark}.jsonl" for form in FORMS for mark in ("", ".heldout")]


@pytest.fixture
def asked(world):  # noqa: F811
    (world.folder / "many.jsonl").write_text(chats(20))
    world.recipe(SERVED, more="device: cpu\n")
    return world


def written(world) -> dict[str, bytes]:  # noqa: F811
    return {name: path.read_bytes() for name, path in left(world).items() if name in ALL}


def judged(place: Path) -> list:
    """Who said what of which answers, ids and times left out."""
    said, answers = [], {}
    with Store.open(str(place)) as store:
        for kept in store.each("exchange", "judgement"):
            if isinstance(kept.record, Exchange):
                texts = [one.text.strip() or "..." for one in kept.record.candidates]
                answers[kept.id] = [turn.content for turn in kept.record.prompt], texts, kept.record.shown
            else:
                record = kept.record.model_dump(exclude={"exchange"})
                said.append((*answers[kept.record.exchange], record))
    return said


def test_over_http_people_say_what_they_say_directly(asked, monkeypatch):
    monkeypatch.setattr("didact.run.ground.pick_dtype", lambda *_: torch.float32)  # else answers hang on the batch
    gc.collect()
    before = uncompiled._users
    asked.run()
    served = {mark: judged(left(asked)[f"store{mark}.sqlite"]) for mark in ("", ".heldout")}
    people = [left(asked)[f"people{mark}.jsonl"].read_bytes() for mark in served]
    with Store.open(str(left(asked)["store.sqlite"])) as store:
        first = next(store.each("exchange")).record
    assert first.annotator in {"m00", "m01", "m02", "m03"}
    assert (first.candidates[1].model, first.candidates[1].sampling["max_new_tokens"]) == ("base", 4)
    assert len(first.candidates[1].model_hash) == 16
    shutil.rmtree(asked.folder / "runs")
    asked.run("crowd.serve=false")
    assert {mark: judged(left(asked)[f"store{mark}.sqlite"]) for mark in served} == served
    assert [left(asked)[f"people{mark}.jsonl"].read_bytes() for mark in served] == people
    assert set(served[""][0][3]) >= {"kind", "annotator"}
    gc.collect()
    assert uncompiled._users == before  # later stages may compile


class Dead(BaseException):
    """The end of a process."""


def die_after(monkeypatch, posts: int, end) -> None:
    """Ends the process once so many posts were answered."""
    post, done = Client.post, []

    def dying(self, path, *rest):
        found = post(self, path, *rest)
        done.append(path)
        if len([each for each in done if each.startswith("/feedback")]) > posts:
            end()
        return found

    monkeypatch.setattr(Client, "post", dying)


def ended() -> None:
    raise Dead


def test_ended_in_the_middle_it_goes_on(asked, monkeypatch):
    (asked.folder / "many.jsonl").write_text(chats(12))
    asked.run("crowd.batch_size=3")  # four questions at once
    whole = written(asked)
    shutil.rmtree(asked.folder / "runs")
    for posts in (0, 2, 5, 9, 20):
        with monkeypatch.context() as patch:
            die_after(patch, posts, ended)
            with pytest.raises(Dead):
                asked.run("crowd.batch_size=3")
    asked.run("crowd.batch_size=3")
    assert written(asked) == whole
    with Store.open(str(left(asked)["store.sqlite"])) as store:
        assert [kept.record.type for kept in store.each()] == ["exchange"] * 8 + ["judgement"] * 8 * 2 * 3


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(asked):
    asked.run("crowd.batch_size=6")
    whole = written(asked)
    shutil.rmtree(asked.folder / "runs")
    for posts in (0, 7, 15, 40, 90):
        done = subprocess.run([sys.executable, "-c", KILLED, str(posts)], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, (posts, done.stderr)
    asked.run("crowd.batch_size=6")
    assert written(asked) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
from _pytest.monkeypatch import MonkeyPatch
from didact.run.command import run_recipe
from tests.run.test_crowd_served import die_after
die_after(MonkeyPatch(), int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL))
run_recipe(Path("recipe.yaml"), ["crowd.batch_size=6"], Path("runs"), print)
"""


def test_what_an_answer_stands_on_is_recorded(asked):
    index = "{index: {data: docs.jsonl, embedder: none, size: 80, overlap: 0}}"
    asked.recipe(index, SERVED.replace("serve: true", "serve: true, index: index/index"), more="device: cpu\n")
    asked.run()
    with Store.open(str(left(asked)["store.sqlite"])) as store:
        (first, *_) = [kept.record.candidates[0].text for kept in store.each("exchange")]
    assert first.startswith("I found nothing relevant to this in the documents.")  # as the page would have shown it


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (["crowd.temperature=3"], "a server takes a temperature of 2.0 at most"),
        (["crowd.index=docs.jsonl", "crowd.serve=false"], "only a served model answers from an index"),
    ],
)
def test_what_a_server_cannot_do_is_said_first(asked, change, what):
    with pytest.raises(UsageProblem, match=what):
        asked.run(*change)


def test_what_the_server_refuses_is_one_line(asked):
    with pytest.raises(
        DataProblem, match=r"question 1: the crowd's server answers 400: .*; lower max_new_tokens"
    ) as no:
        asked.run("crowd.max_new_tokens=500")
    assert "\n" not in str(no.value)


def test_a_connection_that_was_silent_for_long_is_opened_again(tmp_path):
    with Store.open(str(tmp_path / "s.sqlite")) as store, here.serving(State(Engine(), {}, store=store)) as port:
        client = Client(port)
        for _ in range(2):
            assert client.get("/v1/models")
            client.connection.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ResourceProblem, match=r"x: the crowd's server cannot be asked .*; run it again"):
        client.post("/feedback/exchanges", {}, "x")


def test_a_server_that_fails_is_one_line(asked, monkeypatch):
    monkeypatch.setattr("didact.serve.lane.Lane.step", lambda self: 1 / 0)
    with pytest.raises(ResourceProblem, match="the crowd's server answers 500: the model failed"):
        asked.run()


def test_without_a_port_it_is_one_line(asked, monkeypatch):
    class Full(socket.socket):
        def bind(self, where):
            raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(here.socket, "socket", Full)
    with pytest.raises(ResourceProblem, match=r"127.0.0.1: no port can be had \(Address already in use\)"):
        asked.run()
