"""Being asked to stop: SIGTERM and Ctrl-C become a flag that the loop reads between micro-batches."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """Set by the first signal; the second of the same kind acts as it would have without Didact."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.asked is not None


@contextmanager
def listening() -> Iterator[StopFlag]:
    """Listens for SIGTERM and SIGINT while the block runs; outside the main thread it only hands out the flag."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: FrameType | None) -> None:
        flag.asked = signal.Signals(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
