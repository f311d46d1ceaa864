"""Times of steps, from the end of one to the end of the next, so that loading of data counts too."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

REST = "the rest"


class Clock:
    """Laps in seconds; the first one begins when the clock is made or started again.

    ``spent`` says for each lap in which ``part`` it went; a part inside another counts only as itself.
    """

    def __init__(self) -> None:
        self.laps: list[float] = []
        self.spent: list[dict[str, float]] = []
        self.start()

    def start(self) -> None:
        self._last = self._since = time.perf_counter()
        self._part = REST
        self._lap = defaultdict[str, float](float)

    def lap(self) -> None:
        self._turn(self._part)
        self.laps.append(self._since - self._last)
        self.spent.append(dict(self._lap))
        self._last, self._lap = self._since, defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        outer = self._turn(name)
        try:
            yield
        finally:
            self._turn(outer)

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, whose time is of the part ``name``."""

        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return timed

    def _turn(self, name: str) -> str:
        now = time.perf_counter()
        self._lap[self._part] += now - self._since
        before, self._part, self._since = self._part, name, now
        return before
