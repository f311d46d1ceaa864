"""Code of strangers: what it may do, and that everything else is refused."""

import sys
import time

import pytest

from didact.errors import DataProblem
from didact.rollout.reward import tests
from didact.rollout.reward.base import Answered
from didact.rollout.reward.sandbox.run import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="walls are Linux's")


def test_code_and_tests_run_together() -> None:
    assert run("def f(x): return x + 1", "assert f(1) == 2").passed
    failed = run("def f(x): return x + 1", "assert f(1) == 3, 'no'")
    assert not failed.passed
    assert failed.why == "failed AssertionError: no"
    assert run("import json, decimal, sqlite3, threading; t = threading.Thread(target=print); t.start()", "").passed
    assert run("import os", "assert set(os.environ) <= {'LC_CTYPE'}").passed


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os\nwhile True: os.fork()", "PermissionError"),
        ("import subprocess; subprocess.run(['ls'])", "PermissionError"),
        ("import multiprocessing as m; m.Process(target=print).start()", "PermissionError"),
        ("open('/etc/passwd')", "PermissionError"),
        (f"open({__file__!r})", "PermissionError"),
        ("import os; open(f'/proc/{os.getppid()}/environ')", "PermissionError"),
        ("import os; os.listdir('/')", "PermissionError"),
        ("open('here.txt', 'w')", "PermissionError"),
        ("import os; os.chmod('/tmp', 0o777)", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
        ("import socket; socket.socket()", "PermissionError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError"),
        ("all = bytearray(10 << 30)", "MemoryError"),
        ("import os\nf = os.memfd_create('f')\nfor i in range(9): os.write(f, bytes(1 << 19))", "File too large"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import didact.errors", "PermissionError"),
        ("import os; os._exit(0)", "ended before its tests did"),
        ("raise SystemExit(0)", "SystemExit"),
        ("print('passed'); import ctypes; ctypes.string_at(0)", "ended before its tests did"),
        ("import ctypes; assert ctypes.CDLL(None).fork() >= 0, 'refused'", "refused"),
    ],
)
def test_what_is_refused(code: str, why: str) -> None:
    outcome = run(code, "", seconds=2)
    assert not outcome.passed
    assert why in outcome.why


def test_time_is_bounded() -> None:
    for code in ("while True: pass", "import time; time.sleep(60)"):
        began = time.monotonic()
        assert not run(code, "", seconds=1).passed
        assert time.monotonic() - began < 10


def test_the_share_of_the_tests_passed() -> None:
    reward = tests.Tests(before="import math")
    right, wrong = "Here:\n```python\ndef f(x):\n    return math.floor(x)\n```\nDone.", "def f(x): return x"
    record = {"tests": ["assert f(2) == 2", "assert f(2.5) == 2"]}
    assert reward([Answered((), text, record) for text in (right, wrong, "not Python at all")]) == [1, 0.5, 0]
    with pytest.raises(DataProblem, match="d:1: its field 'tests' is no text and no list of texts"):
        reward([Answered((), right, {"tests": []}, where="d:1")])
