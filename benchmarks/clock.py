"""Times of steps, from the end of one to the end of the next, so that loading of data counts too."""

import time


class Clock:
    """Laps in seconds; the first one begins when the clock is made or started again."""

    def __init__(self) -> None:
        self.laps: list[float] = []
        self.start()

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> None:
        now = time.perf_counter()
        self.laps.append(now - self._last)
        self._last = now
