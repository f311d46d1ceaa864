"""The supervisor with programs of a few lines (no torch), and with real training in the slow form."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from didact.engine import supervise
from tests.engine.worker import REPOSITORY, closing, left, said, trail

RANK = "import os, signal, sys, time; rank = os.environ['RANK']; me = os.getpid()\n"
LISTEN = "from didact.engine.stop import listening\nfrom didact.errors import Preempted\n"
SAVES = (
    RANK
    + LISTEN
    + """
try:
    with listening():
        open(sys.argv[1] + '/ready-' + rank, 'w').write(str(me))
        time.sleep(60)
except Preempted as problem:
    sys.exit(problem.code)
"""
)
DEAF = (
    RANK + "signal.signal(15, signal.SIG_IGN); open(sys.argv[1] + '/ready-' + rank, 'w').write(str(me)); time.sleep(60)"
)


def supervised(monkeypatch, program: str, *arguments: str) -> tuple[int, list[str]]:
    monkeypatch.setattr(supervise, "PROGRAM", (sys.executable, "-c", program))
    lines: list[str] = []
    return supervise.supervise(arguments, 2, lines.append), lines


@pytest.mark.parametrize("breaking", ["time.sleep(60)", "time.sleep(0.5); sys.exit(1)", "sys.exit(1)"])
@pytest.mark.parametrize("code", [2, 3, 4, 6])
def test_one_that_fails_by_itself_ends_all_with_its_code(monkeypatch, breaking, code):
    """Whatever the other does: hang, or break a little later (or earlier) because its peer is gone."""
    program = RANK + f"sys.exit({code}) if rank == '1' else None\n{breaking}"
    assert supervised(monkeypatch, program) == (code, [])


def test_our_own_bug_ends_all_with_1(monkeypatch):
    assert supervised(monkeypatch, RANK + "sys.exit(1) if rank == '1' else time.sleep(60)") == (1, [])


def test_one_that_is_killed_brings_all_back(monkeypatch, tmp_path):
    program = RANK + (
        "if rank == '1' and not os.path.exists(sys.argv[1]):\n"
        "    open(sys.argv[1], 'w'); os.kill(me, signal.SIGKILL)\n"
        "time.sleep(0.5)\n"
        "sys.exit(0 if os.path.exists(sys.argv[1]) else 3)\n"
    )
    code, lines = supervised(monkeypatch, program, str(tmp_path / "seen"))
    assert code == 0
    assert lines == ["process 1 (SIGKILL) was killed; starting all 2 again (1 of 20)"]


def test_a_machine_that_always_kills_is_given_up(monkeypatch):
    monkeypatch.setattr(supervise, "RESTARTS", 2)
    code, lines = supervised(monkeypatch, RANK + "os.kill(me, signal.SIGKILL) if rank == '0' else time.sleep(60)")
    assert code == 128 + signal.SIGKILL
    assert len(lines) == 2


def started(folder: Path, program: str, patience: float = 60.0) -> subprocess.Popen:
    """A supervisor in a process of its own, once both of its processes are ready."""
    script = (
        "import sys\nfrom didact.engine import supervise\nfrom didact.engine.stop import listening\n"
        f"supervise.PROGRAM, supervise.PATIENCE = (sys.executable, '-c', {program!r}), {patience}\n"
        "with listening():\n"
        f"    code = supervise.supervise([{str(folder)!r}], 2, print)\n"
        "sys.exit(code)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(pids(folder)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def pids(folder: Path) -> list[int]:
    found = [path.read_text() for path in folder.glob("ready-*")]
    return [int(text) for text in found if text]


def gone(folder: Path) -> bool:
    psutil.wait_procs([psutil.Process(pid) for pid in pids(folder) if psutil.pid_exists(pid)], timeout=60)
    return not any(psutil.pid_exists(pid) for pid in pids(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_all_save(tmp_path, number):
    process = started(tmp_path, SAVES)
    process.send_signal(number)
    assert process.wait(timeout=60) == 75
    assert gone(tmp_path)


def test_one_that_does_not_listen_is_ended(tmp_path):
    process = started(tmp_path, DEAF, patience=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert gone(tmp_path)


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    process = started(tmp_path, DEAF)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in (130, -signal.SIGINT)  # of an interpreter that a KeyboardInterrupt ends
    assert gone(tmp_path)


def test_nobody_is_left_when_the_supervisor_is_killed(tmp_path):
    process = started(tmp_path, SAVES)
    process.kill()
    process.wait()
    assert gone(tmp_path)


# ---- real training -------------------------------------------------------------------------------------------------

JOB = {"steps": 30, "wait": 0.1, "training": {"save_every": 3, "learning_rate": 1e-2}}


def training(folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    script = (
        "import sys\nfrom didact.engine import supervise\nfrom didact.engine.stop import listening\n"
        "supervise.PROGRAM = (sys.executable, '-m', 'tests.engine.worker')\n"
        "with listening():\n"
        f"    code = supervise.supervise({[json.dumps(JOB), str(folder)]!r}, 2, print)\n"
        "sys.exit(code)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )


def until_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and not ((folder / "trail").exists() and max(trail(folder), default=0) >= step):
        assert time.monotonic() < until, said(folder)
        time.sleep(0.01)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    found = [child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_ranks_are_replaced_and_nothing_is_lost(tmp_path):
    whole = tmp_path / "whole"
    assert training(whole).wait() == 0, said(whole)
    draw = random.Random(0)
    for life in range(4):
        folder = tmp_path / str(life)
        process = training(folder)
        for step in sorted(draw.sample(range(1, 28), 2)):
            until_step(process, folder, step)
            time.sleep(draw.random() * 0.2)
            ranks(process)[draw.randrange(2)].kill()
            time.sleep(1)  # until the supervisor has seen it
        assert process.wait(timeout=120) == 0, said(folder)
        restarts = process.stdout.read()
        assert restarts.count("was killed; starting all 2 again") == 2, restarts
        assert left(folder) == left(whole)
        assert closing(folder) == closing(whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_group_saves_and_resumes(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "cut"
    assert training(whole).wait() == 0, said(whole)
    for step in (5, 14):
        process = training(folder)
        until_step(process, folder, step)
        process.terminate()
        assert process.wait(timeout=30) == 75, said(folder)
    assert training(folder).wait() == 0
    assert left(folder) == left(whole)
    assert closing(folder) == closing(whole)
