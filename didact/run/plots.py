"""Curves as SVG text that lives inside a page: its colours are the page's variables, its letters the page's font."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]

# matplotlib needs colours; these stand for CSS variables, which differ by light, dark and print.
INK, QUIET, GRID, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    GRID: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
FEW = 30  # points that need no smoothing
POINTS = 400  # most drawn along x: more than a screen resolves only makes the page heavy


@dataclass(frozen=True)
class Series:
    """One quantity over x; where y is not finite the line has a gap."""

    x: Numbers
    y: Numbers

    @property
    def known(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.y).any())


def series(records: Sequence[dict[str, float]], x: str, y: str) -> Series:
    """The lines of a metrics file that have both names."""
    pairs = [(record[x], record[y]) for record in records if x in record and y in record]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return Series(table[:, 0], table[:, 1])


def smooth(y: Numbers) -> Numbers:
    """A centred mean over a thirtieth of the points; what is not finite has no part in it."""
    reach = max(1, len(y) // 60)
    known = np.isfinite(y)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(y)) - reach, 0)
    high = np.minimum(np.arange(len(y)) + reach + 1, len(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total[high] - total[low]) / (count[high] - count[low])


def thin(line: Series, points: int = POINTS) -> Series:
    """At most ``points`` points that still show every spike: each bin's lowest and highest."""
    if len(line.x) <= points:
        return line
    kept = {0, len(line.x) - 1}
    for part in np.array_split(np.arange(len(line.x)), points // 2):
        values = line.y[part]
        if np.isfinite(values).any():
            kept |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    index = sorted(kept)
    return Series(line.x[index], line.y[index])


def loss_curve(train: Series, held_out: Series, x_label: str, width: int, height: int, name: str) -> str:
    """Training loss, raw behind and smoothed in front, and the held-out loss where it was measured."""

    def draw(axes: Axes) -> None:
        _line(axes, train, FIRST)
        if held_out.known:
            axes.plot(held_out.x, held_out.y, color=SECOND, linewidth=1.6, marker="o", markersize=4)
        _fit(axes, train, held_out)
        axes.set_ylabel("loss (nats per trained token)" if x_label == "trained tokens" else "loss")
        axes.set_xlabel(x_label)

    return _svg(draw, width, height, name, f"Loss: {_fall(train)}")


def small(line: Series, title: str, x_label: str, name: str, noisy: bool = True, wide: bool = True) -> str:
    """One small multiple: a quantity over the same x as its neighbours; what is not noisy is not smoothed.

    A ``wide`` one that grows fiftyfold is drawn by its logarithm.
    """

    def draw(axes: Axes) -> None:
        _line(axes, line, FIRST, noisy)
        positive = line.y[np.isfinite(line.y) & (line.y > 0)]
        if noisy and wide and len(positive) == len(line.y) and positive.max() > 50 * positive.min():
            axes.set_yscale("log")
        axes.set_ylabel(title)
        axes.set_xlabel(x_label)

    return _svg(draw, 350, 180, name, f"{title}: {_fall(line)}")


def against_kl(
    root: Numbers, lines: Sequence[tuple[Numbers, Callable[[float], float] | None]], width: int, height: int, name: str
) -> str:
    """Rewards over the square root of the KL, the one trained on and one held out, each with its fitted curve."""

    def draw(axes: Axes) -> None:
        seen = root[np.isfinite(root)]
        for (reward, fit), colour in zip(lines, (FIRST, SECOND), strict=False):
            axes.plot(root, reward, color=colour, linestyle="", marker="o", markersize=3, alpha=0.4)
            if fit is not None:
                x = np.linspace(0, seen.max(), 100)
                axes.plot(x, [fit(float(d)) for d in x], color=colour, linewidth=1.8)
        axes.set_ylabel("reward")
        axes.set_xlabel("\u221aKL from the reference (nats an answer)")

    return _svg(draw, width, height, name, "Reward against the square root of the KL")


def _line(axes: Axes, line: Series, colour: str, noisy: bool = True) -> None:
    raw = thin(line)
    if len(line.x) < FEW or not noisy:
        axes.plot(raw.x, raw.y, color=colour, linewidth=1.8, marker="o" if len(raw.x) < 12 else "", markersize=4)
        return
    mean = thin(Series(line.x, smooth(line.y)))
    axes.plot(raw.x, raw.y, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(mean.x, mean.y, color=colour, linewidth=1.8)


def _fit(axes: Axes, train: Series, held_out: Series) -> None:
    """Keeps a few wild steps from flattening the curve they interrupt."""
    y = train.y[np.isfinite(train.y)]
    if len(y) < FEW:
        return
    top = max(np.percentile(y, 99.5), np.nanmax(smooth(train.y)), held_out.y.max(initial=-np.inf))
    low = min(y.min(), held_out.y.min(initial=np.inf))
    if np.isfinite(top) and top > low:
        axes.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low))


def _fall(line: Series) -> str:
    y = line.y[np.isfinite(line.y)]
    return f"from {y[0]:.4g} at the start to {y[-1]:.4g} at the end" if len(y) else "nothing measured"


def _svg(draw: Callable[[Axes], None], width: int, height: int, name: str, label: str) -> str:
    """``draw`` on a fresh axes, as an SVG element of ``width`` x ``height`` CSS pixels."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 12,
        "axes.labelsize": 12,
        "xtick.labelsize": 11,
        "ytick.labelsize": 11,
        "axes.formatter.useoffset": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.tick_params(colors=QUIET, length=0, pad=5)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.label.set_color(QUIET)
        axes.yaxis.label.set_color(QUIET)
        axes.xaxis.set_major_formatter(EngFormatter(sep="\u202f"))
        axes.xaxis.set_major_locator(MaxNLocator(5 if width > 500 else 4))
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(5 if height > 200 else 4))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\u2212"))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), width, height, name, label)


def _inline(svg: str, width: int, height: int, name: str, label: str) -> str:
    """An SVG file as an element: no prologue, own ids, colours by variable, a name for who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_escaped(label)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).strip()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
