"""Several processes on one machine, and a fresh start of all of them when one is killed.

Each start is new processes in a new group: what remains of a broken group is ended first, so nothing waits for the
dead. (torchrun works too, and is the way over several hosts; its restart in place hung in 4 of 16 kills with gloo.)
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from didact.engine.stop import held
from didact.errors import Preempted

COMPLAINT = "DIDACT_COMPLAINT"  # names the file in which a process of a group leaves its last line, for one to say
PROGRAM = (sys.executable, "-m", "didact")
RESTARTS = 20  # a machine that kills more often than this needs a person
POLL = 0.1  # seconds between looks
GRACE = 1.0  # seconds in which the others of a broken group are given to say what they died of
PATIENCE = 120.0  # seconds to save after being asked to stop
FOLLOW = 10.0  # seconds in which the others follow the first that has stopped

Process = subprocess.Popen[bytes]
Group = Sequence[Process]


def supervise(arguments: Sequence[str], processes: int, say: Callable[[str], None]) -> int:
    """Runs ``didact`` with these arguments in so many processes; returns the exit code of the whole.

    A process killed by a signal brings all of them back up to ``RESTARTS`` times, from the last checkpoint; one that
    ends by itself with an error ends the run with its code. Asked to stop, all are asked, and the code is 75.
    """
    with held() as stop, tempfile.TemporaryDirectory(prefix="didact-") as folder:
        attempt = 0
        while True:
            with _started(arguments, processes, Path(folder)) as group:
                codes = _codes(group, stop)
            killed = [f"{rank} ({signal.Signals(-code).name})" for rank, code in enumerate(codes) if code < 0]
            code = Preempted.code if killed and stop() else _worst(codes)
            if not killed or stop() or _foreseen(codes) or attempt == RESTARTS:
                _complain(Path(folder), codes, code, say)
                return code
            attempt += 1
            again = f"starting all {processes} again ({attempt} of {RESTARTS})"
            say(f"process {', '.join(killed)} was killed; {again}")


def _complain(folder: Path, codes: Sequence[int], code: int, say: Callable[[str], None]) -> None:
    """Says once what all of them, or the one that broke the others, ended with."""
    said = [folder / str(rank) for rank, ended in enumerate(codes) if ended == code]
    lines = [path.read_text() for path in said if path.exists()]
    if code and lines:
        say(lines[0])


@contextmanager
def _started(arguments: Sequence[str], processes: int, folder: Path) -> Iterator[Group]:
    """The group, of which nothing is left when the block ends, however it ends."""
    port = _free_port()
    group: list[Process] = []
    try:
        for rank in range(processes):
            group.append(_start(arguments, rank, processes, port, folder / str(rank)))
        yield group
    finally:
        _signal(group, signal.SIGKILL)
        for process in group:
            process.wait()


def _start(arguments: Sequence[str], rank: int, processes: int, port: int, complaint: Path) -> Process:
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
        COMPLAINT: str(complaint),
    }
    # A session of its own: Ctrl-C reaches the supervisor alone, which hands it on once.
    return subprocess.Popen([*PROGRAM, *arguments], env=env, start_new_session=True)


def _codes(group: Group, stop: Callable[[], bool]) -> list[int]:
    """Waits until all have ended, or one has broken the group; the exit codes, 0 for those we have to end ourselves."""
    asked = first = None
    while any(process.poll() is None for process in group):
        now = time.monotonic()
        if stop() and asked is None:
            asked, first = now, None
            _signal(group, signal.SIGTERM)
        if first is None and any(process.poll() for process in group):
            first = now
        leaving = asked or Preempted.code in [process.poll() for process in group]
        if first and now - first > (FOLLOW if leaving else GRACE):
            break
        if asked and now - asked > PATIENCE:
            return [Preempted.code]
        time.sleep(POLL)
    return [process.poll() or 0 for process in group]


def _signal(group: Group, number: signal.Signals) -> None:
    for process in group:
        if process.poll() is None:
            process.send_signal(number)


def _worst(codes: Sequence[int]) -> int:
    """Preempted if that is what happened, else what one of them foresaw (others break with it), else the first."""
    failures = [code if code > 0 else 128 - code for code in codes if code]
    foreseen = _foreseen(codes)
    return Preempted.code if Preempted.code in codes else [*foreseen, *failures, 0][0]


def _foreseen(codes: Sequence[int]) -> list[int]:
    """Exit codes of mistakes that a process named itself; 1 is what the others of its group die of."""
    return [code for code in codes if code > 1 and code < 128]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
