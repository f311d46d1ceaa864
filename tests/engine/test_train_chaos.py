"""Law 4 on the real loop: killed at any instant and run again equals never killed, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.worker import REPOSITORY, closing, left, said, trail

DROPOUT = {"attention_dropout": 0.1}
TRAINING = {"save_every": 2, "learning_rate": 1e-2, "weight_decay": 0.1}
MUON = {**TRAINING, "optimizer": "muon"}
JOBS = {  # two tasks of different weight, six epochs' borders, dropout on
    "adamw-fp32": {"steps": 9, "training": TRAINING, "model": DROPOUT},
    "adamw-bf16": {"steps": 9, "training": TRAINING, "model": DROPOUT, "dtype": "bfloat16"},
    "thaw-fp32": {"steps": 9, "training": {**TRAINING, "layer_decay": 0.5, "unfreeze": 0.6}, "model": DROPOUT},
    "muon-fp32": {"steps": 9, "training": MUON, "model": DROPOUT},
    "muon-bf16": {"steps": 9, "training": MUON, "model": DROPOUT, "dtype": "bfloat16"},
    "lora-bf16": {"steps": 9, "training": TRAINING, "lora": True, "dropout": 0.1, "dtype": "bfloat16"},
    "ratio": {"steps": 9, "training": TRAINING, "model": DROPOUT, "turn": {"ratio": 4.1}},
    "linked-bf16": {"steps": 9, "training": TRAINING, "linked": True, "dtype": "bfloat16"},
    "policy": {"steps": 9, "training": {**TRAINING, "micro_batch_size": 2}, "policy": True},
    "refill": {"steps": 9, "training": {**TRAINING, "micro_batch_size": 2}, "policy": "refill"},
    "critic": {"steps": 9, "training": {**TRAINING, "micro_batch_size": 2}, "policy": "critic"},
    "rolled-back": {"steps": 9, "training": TRAINING, "tasks": 1, "poison": [4, 8, 12]},
}


class Unbroken:
    """What each job gives when nothing harms it, made once."""

    def __init__(self, server, folder: Path):
        self.server, self.folder = server, folder
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> Path:
        folder = self.folder / name
        if name not in self.seconds:
            assert self.server.attempt(JOBS[name], folder, count=True) == [0], said(folder)
            self.seconds[name] = self.server.seconds
        return folder


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    return Unbroken(server, tmp_path_factory.mktemp("unbroken"))


def equal(folder: Path, whole: Path) -> None:
    assert left(folder) == left(whole), "a step differs when taken again"
    assert closing(folder) == closing(whole)
    known = [line.split(b',"tokens_per_second"')[0] for line in (whole / "metrics.jsonl").read_bytes().splitlines()]
    found = [line.split(b',"tokens_per_second"')[0] for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    assert found == known


def harmed(server, job, folder: Path, whole: Path, harms) -> int:
    """Attempts with one harm after the other, then one without; how many of them struck."""
    struck = 0
    for harm in harms:
        code = server.attempt(job, folder, **harm)
        assert code in ([0], [-9], [75]), said(folder)
        if code == [0]:
            break
        struck += 1
    else:
        assert server.attempt(job, folder) == [0], said(folder)
    equal(folder, whole)
    return struck


def at_random(seed: int, seconds: float, number: signal.Signals, count: int):
    draw = random.Random(seed)
    for _ in range(count):
        yield {"rank": 0, "after": draw.uniform(0.05, 0.85) * seconds, "signal": int(number)}


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_random_instants(server, unbroken, tmp_path, name):
    whole = unbroken(name)
    assert harmed(server, JOBS[name], tmp_path, whole, at_random(1, unbroken.seconds[name], signal.SIGKILL, 2))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", JOBS)
def test_killed_at_fifty_random_instants(server, unbroken, tmp_path, name):
    whole, struck, life = unbroken(name), 0, 0
    while struck < 50:
        harms = at_random(life, unbroken.seconds[name], signal.SIGKILL, 5)
        struck += harmed(server, JOBS[name], tmp_path / str(life), whole, harms)
        life += 1


def test_killed_between_steps_that_are_no_numbers(server, unbroken, tmp_path):
    """The third in a row is the third for a resumed run too."""
    harm = {"rank": 0, "step": 3, "signal": int(signal.SIGKILL)}
    assert harmed(server, JOBS["rolled-back"], tmp_path, unbroken("rolled-back"), [harm]) == 1
    assert "resumed at step 2 of 9" in said(tmp_path)


def killed_at_events(server, unbroken, folder: Path, name: str, every: int) -> None:
    whole = unbroken(name)
    count = int((whole / "events").read_text())
    assert count > 100
    for at in range(0, count, every):
        harm = {"rank": 0, "event": at, "when": ("before", "after", "halfway")[at % 3]}
        harmed(server, JOBS[name], folder / str(at), whole, [harm])


def test_killed_at_some_file_events(server, unbroken, tmp_path):
    killed_at_events(server, unbroken, tmp_path, "adamw-fp32", 61)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["adamw-fp32", "muon-bf16", "policy", "refill"])
def test_killed_at_every_file_event(server, unbroken, tmp_path, name):
    killed_at_events(server, unbroken, tmp_path, name, 1)


def preempted(server, unbroken, folder: Path, name: str, seed: int, count: int) -> None:
    whole = unbroken(name)
    harms = at_random(seed, unbroken.seconds[name], signal.SIGTERM, count)
    struck = harmed(server, JOBS[name], folder, whole, harms)
    lines = [line for line in said(folder).splitlines() if line.startswith("75: ")]
    assert struck == len(lines) > 0, said(folder)
    assert all("stopped by SIGTERM" in line and "run again to resume" in line for line in lines)


def test_asked_to_stop_at_random_moments(server, unbroken, tmp_path):
    preempted(server, unbroken, tmp_path, "adamw-bf16", 3, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", JOBS)
def test_asked_to_stop_often(server, unbroken, tmp_path, name, seed):
    if name == "rolled-back":
        pytest.skip("how far a rollback goes depends on where a checkpoint was saved, and a stop saves one")
    preempted(server, unbroken, tmp_path, name, seed, 5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_runs_resume_too(tmp_path):
    """The decision to compile, and the shapes first seen, are those of the unbroken run."""
    job = {"steps": 6, "training": {**TRAINING, "compile": "on"}}

    def started(folder: Path) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.engine.worker", json.dumps(job), str(folder)]
        return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert started(whole).wait() == 0, said(whole)
    process = started(cut)
    while process.poll() is None and not ((cut / "trail").exists() and max(trail(cut), default=0) >= 4):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert started(cut).wait() == 0, said(cut)
    assert "resumed at step" in said(cut)
    equal(cut, whole)
