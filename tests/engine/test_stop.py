"""Asked to stop, in a process of its own: one line, code 75, within bounds, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from didact.engine.stop import SIGNALS, listening
from tests.engine.worker import REPOSITORY

START = """
import hashlib, os, sys, threading, time
from didact.engine import stop
from didact.engine.stop import held, listening
from didact.errors import Problem
stop.LIMIT = LIMIT_S
def ready(): print("ready", flush=True)
try:
    with listening():
        WORK
except Problem as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def asked(
    work: str, *numbers: signal.Signals, pause: float = 0.5, limit: float = 60, environment=None
) -> tuple[int, str]:
    """Exit code and stderr of work to which signals are sent once it is ready."""
    script = START.replace("WORK", work.replace("\n", "\n        ")).replace("LIMIT_S", str(limit))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        time.sleep(pause)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_where_nothing_is_held_the_run_is_left_at_once(number):
    code, errors = asked("ready(); time.sleep(60)", number)
    assert code == 75
    assert errors == f"stopped by {number.name}; what is finished or saved is kept; run again to resume\n"


def test_no_handler_of_errors_on_the_way_keeps_it():
    work = "ready()\nfor _ in range(600):\n    try: time.sleep(0.1)\n    except Exception: pass"
    assert asked(work, signal.SIGTERM)[0] == 75


def test_one_that_is_swallowed_ends_all_the_same():
    work = "ready()\nfor _ in range(600):\n    try: time.sleep(0.1)\n    except BaseException: pass"
    code, errors = asked(work, signal.SIGTERM, limit=1)
    assert code == 75
    assert "run again to resume" in errors


def test_a_long_call_into_c_ends_within_the_limit():
    code, errors = asked(
        "threading.Timer(0.5, ready).start(); hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 28)", signal.SIGTERM, limit=1
    )
    assert code == 75
    assert "in the middle of a long call" in errors


def test_what_is_held_is_finished_first():
    work = "with held() as flag:\n    ready(); time.sleep(2); print(flag.asked.name, file=sys.stderr)\n"
    assert asked(work + "    sys.exit(9)", signal.SIGTERM) == (9, "SIGTERM\n")


def test_a_second_ctrl_c_ends_what_is_held():
    work = "with held():\n    ready(); time.sleep(60)"
    assert asked(work, signal.SIGINT, signal.SIGINT)[0] == 130


def test_a_launcher_may_repeat_itself():
    """torchrun and job systems send the same signal again to processes that have it already."""
    work = "with held() as flag:\n    ready(); time.sleep(2)\n    sys.exit(7 if flag() else 8)"
    several = {**os.environ, "WORLD_SIZE": "2"}
    for number in (signal.SIGTERM, signal.SIGINT):
        assert asked(work, number, number, number, pause=0.05, environment=several)[0] == 7
    assert asked("ready(); time.sleep(60)", *[signal.SIGTERM] * 5, pause=0.01)[0] == 75


def test_what_breaks_after_the_request_is_the_stopping():
    """The other end of a collective call has gone: RuntimeError, but not a bug."""
    work = "with held():\n    ready(); time.sleep(1)\nraise RuntimeError('Connection closed by peer')"
    assert asked(work, signal.SIGTERM)[0] == 75
    assert asked("ready(); raise RuntimeError('a bug')")[0] == 1


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in SIGNALS]
    with listening():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
