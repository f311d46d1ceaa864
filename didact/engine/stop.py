"""Being asked to stop, by SIGTERM or Ctrl-C, at any moment of a run.

Where there is nothing to save (a corpus, a tokenizer, an evaluation, loading) the run is left at once. Where there is,
code says ``held``: the request waits for it, and it looks. Either way ``listening`` ends with Preempted.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from didact.errors import Preempted

LIMIT = 20.0  # seconds in which what is not held must have ended, however long a call into C or Rust lasts
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Leaves whatever runs; no Exception, so that nothing on the way takes it for an error to live with."""


class StopFlag:
    """Whether a stop was asked for. There is one, because a process has one set of signals."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.holds = 0

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.asked is not None


_FLAG = StopFlag()


@contextmanager
def listening() -> Iterator[None]:
    """Turns SIGTERM and Ctrl-C into Preempted while the block runs; a second Ctrl-C ends it as without Didact.

    For the main thread. A process that is one of several also stops when the one that started it is gone.
    """
    _FLAG.asked, _FLAG.holds = None, 0
    before = {number: signal.signal(number, _ask) for number in SIGNALS}
    try:
        with _watched():
            yield
    except (Stopped, RuntimeError) as error:  # RuntimeError: another process left first, and broke off our talk
        if _FLAG.asked is None:
            raise
        raise Preempted(
            f"stopped by {_FLAG.asked.name}; what is finished or saved is kept", remedy="run again to resume"
        ) from error
    finally:
        _FLAG.holds += 1  # from here on there is nothing to leave
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        # Once asked, the process is on its way out: being asked again must not change its exit code.
        signal.signal(signal.SIGTERM, before[signal.SIGTERM] if _FLAG.asked is None else signal.SIG_IGN)


@contextmanager
def held() -> Iterator[StopFlag]:
    """Keeps a request to stop for the block to look at, and to act upon."""
    _FLAG.holds += 1
    try:
        yield _FLAG
    finally:
        _FLAG.holds -= 1


def _ask(number: int, frame: FrameType | None) -> None:
    """The first request counts: launchers repeat what their processes have heard. Only a person alone may insist."""
    first, _FLAG.asked = _FLAG.asked is None, _FLAG.asked or signal.Signals(number)
    if first and not _FLAG.holds:
        raise Stopped
    if not first and number == signal.SIGINT and not _one_of_several():
        raise KeyboardInterrupt


def _one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def _watched() -> Iterator[None]:
    """A thread that hears signals even while the main one is inside a long call, where Python's handlers wait."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(ours, os.getppid()), name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()  # what the thread reads next is the end
        thread.join()
        ours.close()


def _watch(signals: socket.socket, parent: int) -> None:
    signals.settimeout(1.0)
    since: float | None = None
    while True:
        try:
            heard = signals.recv(64)
            if not heard:
                return
            if since is None and any(number in SIGNALS for number in heard):
                since = time.monotonic()
        except TimeoutError:
            pass
        if _one_of_several() and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
        if since is not None and _FLAG.holds:
            since = time.monotonic()  # saving takes what it takes
        elif since is not None and time.monotonic() - since > LIMIT:
            print("didact: stopped in the middle of a long call; run again to resume", file=sys.stderr, flush=True)
            os._exit(Preempted.code)
