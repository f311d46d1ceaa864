"""Starts the walled process, and says whether the tests passed in it."""

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import didact
from didact.errors import UsageProblem

START = "import sys; sys.path.append(sys.argv[1]); from didact.rollout.reward.sandbox.child import main; main()"
PATIENCE = 2  # seconds on the clock for each of computing: a process may sleep
MEMORY = 512 << 20


@dataclass(frozen=True)
class Outcome:
    """Whether the tests passed, and what went wrong."""

    passed: bool
    why: str = ""


def run(code: str, test: str, seconds: int = 5, memory: int = MEMORY, walls: bool = True) -> Outcome:
    """Runs ``code`` and then ``test`` in one process of its own, which has no files, network or environment.

    Raises UsageProblem where the system cannot wall a process in and ``walls`` are wanted.
    """
    secret = secrets.token_hex(16)
    given = {"code": code, "test": test, "seconds": seconds, "memory": memory, "walls": walls, "secret": secret}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", START, str(Path(didact.__file__).parents[1])],
            input=json.dumps(given).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            env={},
            timeout=PATIENCE * seconds + 1,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(False, f"took more than {PATIENCE * seconds + 1} s")
    told, _, why = done.stdout.decode(errors="replace").partition(" ")
    if told != secret:
        return Outcome(False, f"the process ended before its tests did (exit code {done.returncode})")
    if why.startswith("unwalled"):
        what = f"code cannot be walled in here ({why.partition(' ')[2]})"
        remedy = "use Linux 5.13 or later, or say walls: false in a machine that holds nothing of worth"
        raise UsageProblem(what, remedy=remedy)
    return Outcome(why == "passed", why)
