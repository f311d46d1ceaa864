"""What a run says while it runs: one live line on a terminal, a plain line every few seconds elsewhere.

All of it goes to stderr; stdout is data. While the live line stands, what anyone prints to
``sys.stderr`` appears above it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from didact.engine.meter import Reading

REFRESH = 0.125  # seconds between two drawings of the live line
BAR = 8, 24  # cells, fewest and most
# Nothing a document or a model says may steer the terminal; tabs and line ends may pass.
CONTROL = {code: "\ufffd" for code in [*range(32), *range(127, 160)] if chr(code) not in "\t\n"}


def plain(text: str) -> str:
    """``text`` without control characters, so that it cannot steer a terminal."""
    return text.translate(CONTROL)


def duration(seconds: float) -> str:
    """``45s``, ``3m 07s``, ``2h 05m``, ``4d 11h``."""
    whole = round(seconds)
    for unit, size, part, least in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // least:02d}{part}"
    return f"{whole}s"


def energy(watt_hours: float, estimated: bool) -> str:
    """Watt hours in three figures; ``~`` marks an estimate."""
    value, unit = (watt_hours / 1000, "kWh") if watt_hours >= 1000 else (watt_hours, "Wh")
    digits = max(0, 2 - math.floor(math.log10(value))) if value >= 0.001 else 3
    return f"{'~' if estimated else ''}{value:.{min(digits, 3)}f} {unit}"


class Progress:
    """The talk of one stage. ``total_steps`` None means that nobody knows yet; ``quiet`` says nothing at all.

    A pipe that is closed, a terminal that goes away, or a width of three cells never stop a run: talk ends,
    work goes on. Drawing happens at most every eighth of a second, so a step pays microseconds.
    """

    def __init__(
        self,
        stage: str,
        total_steps: int | None,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stage, self.total, self.every, self.clock = plain(stage), total_steps, every, clock
        self.stream = _Unbreakable(None if quiet else stream or sys.stderr)
        self.terminal = self.stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self.console = Console(
            file=cast(TextIO, self.stream),
            force_terminal=self.terminal,
            force_interactive=self.terminal,
            highlight=False,
            soft_wrap=True,
        )
        self.live: Live | None = None
        self.mean, self.weight = 0.0, 0.0  # the exponential mean of the loss
        self.since = clock()
        self.shown: int | None = None
        self.last: tuple[int, float, Reading] | None = None

    def __enter__(self) -> Progress:
        if self.terminal:
            self.live = Live(console=self.console, auto_refresh=False, redirect_stdout=False)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.last and self.shown != self.last[0]:
            self._show(*self.last)
        if self.live:
            self.live.stop()
            self.live = None

    def update(self, step: int, loss: float, reading: Reading) -> None:
        """Takes the figures after a step; draws them when it is time."""
        if math.isfinite(loss):
            self.mean, self.weight = 0.95 * self.mean + 0.05 * loss, 0.95 * self.weight + 0.05
        now = self.clock()
        first, self.last = self.last is None, (step, loss, reading)
        if first or now - self.since >= (REFRESH if self.live else self.every):
            self.since = now
            self._show(step, loss, reading)

    def say(self, line: str) -> None:
        """Prints a line above the live one."""
        self.console.print(Text(plain(line)))

    def _show(self, step: int, loss: float, reading: Reading) -> None:
        self.shown = step
        if self.live:
            self.live.update(self._line(step, loss, reading), refresh=True)
        else:
            self.stream.write("  ".join([self.stage, *self._figures(step, loss, reading)]) + "\n")
            self.stream.flush()

    def _line(self, step: int, loss: float, reading: Reading) -> Text:
        """As many figures as the terminal is wide, the most important first, and a bar if there is room."""
        figures, room = self._figures(step, loss, reading), self.console.width - 1 - len(self.stage)
        while figures and sum(len(figure) + 2 for figure in figures) > room:
            figures.pop()
        line = Text(self.stage, style="bold", no_wrap=True, overflow="ellipsis")
        cells = min(BAR[1], room - 2 - sum(len(figure) + 2 for figure in figures))
        if self.total and cells >= BAR[0]:
            line.append("  ").append(self._bar(step / self.total, cells))
        for figure in figures:
            line.append("  " + figure, style="not bold")
        line.truncate(max(self.console.width - 1, 1))
        return line

    def _figures(self, step: int, loss: float, reading: Reading) -> list[str]:
        smooth = self.mean / self.weight if self.weight and math.isfinite(loss) else loss
        figures = [f"{step:,}/{self.total:,}" if self.total else f"step {step:,}", f"loss {smooth:.4g}"]
        if reading.seconds_left is not None:
            figures.append(f"{duration(reading.seconds_left)} left")
        figures.append(f"{reading.tokens_per_second:,.0f} tok/s")
        if reading.share is not None:
            figures.append(f"{reading.share:.0%} of peak")
        return [*figures, energy(reading.energy_wh, reading.estimated)]

    def _bar(self, share: float, cells: int) -> Text:
        done = round(cells * min(share, 1.0))
        full, empty = "━━" if "utf" in self.stream.encoding.lower() else "#."
        return Text.assemble((full * done, "not bold cyan"), (empty * (cells - done), "not bold dim"))


class _Unbreakable:
    """A stream that falls silent for good, instead of raising, once nobody listens any more."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream

    @property
    def encoding(self) -> str:
        return (self.stream.encoding if self.stream else "") or "utf-8"

    def write(self, text: str) -> int:
        """Writes what the stream can encode."""
        if self.stream is None:
            return len(text)
        text = text.encode(self.encoding, "replace").decode(self.encoding)
        return self._try(lambda stream: stream.write(text)) or len(text)

    def flush(self) -> None:
        """Flushes where there is still somebody."""
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Whether a terminal listens."""
        return bool(self._try(lambda stream: stream.isatty()))

    def fileno(self) -> int:
        """The descriptor, -1 where there is none."""
        number = self._try(lambda stream: stream.fileno())
        return -1 if number is None else number

    def _try(self, call: Callable[[TextIO], int | None]) -> int | None:
        if self.stream is None:
            return None
        try:
            return call(self.stream)
        except (OSError, ValueError):  # a closed pipe, a vanished terminal; ValueError is "closed file"
            self.stream = None
            return None
