"""Several processes on one machine, and a fresh start of all of them when one is killed.

Each start is new processes in a new group: what remains of a broken group is ended first, so nothing waits for the
dead. (torchrun works too, and is the way over several hosts; its restart in place hung in 4 of 16 kills with gloo.)
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from didact.engine.stop import listening
from didact.errors import Preempted

RESTARTS = 20  # a machine that kills more often than this needs a person
POLL = 0.1  # seconds between looks
GRACE = 1.0  # seconds in which the others of a broken group are given to say what they died of
PATIENCE = 120.0  # seconds to save after being asked to stop


def supervise(arguments: Sequence[str], processes: int, say: Callable[[str], None]) -> int:
    """Runs ``didact`` with these arguments in so many processes; returns the exit code of the whole.

    A process killed by a signal brings all of them back up to ``RESTARTS`` times, from the last checkpoint; one that
    ends by itself with an error ends the run with its code.
    """
    with listening() as stop:
        for attempt in range(RESTARTS + 1):
            group = [_start(arguments, rank, processes, port) for port in [_free_port()] for rank in range(processes)]
            codes = _watch(group, stop)
            killed = [rank for rank, code in enumerate(codes) if code < 0]
            if not killed or stop():
                return _worst(codes)
            names = ", ".join(f"{rank} ({signal.Signals(-codes[rank]).name})" for rank in killed)
            say(f"process {names} was killed; starting all {processes} again ({attempt + 1} of {RESTARTS})")
    return _worst(codes)


def _start(arguments: Sequence[str], rank: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    env = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # A session of its own: Ctrl-C reaches the supervisor alone, which hands it on once.
    return subprocess.Popen([sys.executable, "-m", "didact", *arguments], env=env, start_new_session=True)


def _watch(group: Sequence[subprocess.Popen[bytes]], stop: Callable[[], bool]) -> list[int]:
    """Waits until all have ended; ends the rest once one has failed. Returns their exit codes."""
    asked = failed = None
    while any(process.poll() is None for process in group):
        now = time.monotonic()
        if stop() and asked is None:
            asked = now
            _signal(group, signal.SIGTERM)
        if failed is None and any(process.poll() not in (None, 0) for process in group):
            failed = now
        if (failed and not stop() and now - failed > GRACE) or (asked and now - asked > PATIENCE):
            codes = [process.poll() for process in group]
            _signal(group, signal.SIGKILL)
            for process in group:
                process.wait()
            return [code if code is not None else 0 for code in codes]  # those we ended ourselves did not fail
        time.sleep(POLL)
    return [process.wait() for process in group]


def _signal(group: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in group:
        if process.poll() is None:
            process.send_signal(number)


def _worst(codes: Sequence[int]) -> int:
    """Preempted if that is what happened, else the first failure, else 0."""
    if Preempted.code in codes:
        return Preempted.code
    failures = [code if code > 0 else 128 - code for code in codes if code]
    return failures[0] if failures else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
