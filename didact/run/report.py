"""What a run leaves for a person: one page with everything on it, and the closing lines on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from didact.engine.metrics import read
from didact.engine.progress import duration, energy, plain
from didact.run.folder import replace

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MINUS = "\u2212"
UNKNOWN = "\u2013"
COSTS = ("time", "tokens", "tokens/s", "of peak", "memory", "energy")
NOTHING = "(nothing)"
SHOWN = 400  # characters of an answer on the terminal; the page has all of it


@dataclass(frozen=True)
class StageSummary:
    """What one stage did; None is "not known".

    ``counts`` is its data X-ray, ``said`` what its alarms said, ``stopped`` the rule that ended it early.
    """

    kind: str
    name: str
    seconds: float
    tokens: int
    energy_wh: float
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics_path: Path | None = None
    said: Sequence[str] = ()
    energy_source: str = "estimate"
    share: float | None = None
    memory: int | None = None
    stopped: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One measure before and after. ``before`` is None for a model that did not exist before."""

    name: str
    before: float | None
    after: float
    unit: str
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Sample:
    """One question and its answers; ``before`` is None for a model that did not exist before."""

    prompt: str
    before: str | None
    after: str


@dataclass(frozen=True)
class Comparison:
    """One measure of several arms, a number a seed; ``expected`` says what should hold and in which seeds it did."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    seeds: Sequence[int]
    arms: Mapping[str, Sequence[float]]
    expected: Sequence[tuple[str, Sequence[bool]]] = ()

    def verdicts(self) -> list[tuple[str, bool]]:
        """Each expectation in words, and whether it held in every seed."""
        return [(f"{text}: holds in {sum(held)} of {len(held)} seeds", all(held)) for text, held in self.expected]


@dataclass(frozen=True)
class RunSummary:
    """All that the page and the closing lines show."""

    name: str
    recipe_yaml: str
    stages: Sequence[StageSummary] = ()
    evaluations: Sequence[Evaluation] = ()
    samples: Sequence[Sample] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()


@dataclass(frozen=True)
class Row:
    """An evaluation as it is printed, the same in the page and on the terminal."""

    name: str
    unit: str
    before: str
    after: str
    change: str
    verdict: str  # better, worse, same or nothing


def row(evaluation: Evaluation) -> Row:
    """The figures of an evaluation; the verdict follows from which direction is better."""
    change, verdict = _change(evaluation)
    before = UNKNOWN if evaluation.before is None else figure(evaluation.before)
    return Row(evaluation.name, evaluation.unit, before, figure(evaluation.after), change, verdict)


def figure(value: float) -> str:
    """Three decimals (fewer for large numbers), a true minus; what is no number is said to be none."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{MINUS if value < 0 else ''}infinite"
    digits = 3 if abs(value) < 100 else 1 if abs(value) < 10_000 else 0
    text = f"{value:.3g}" if 0 < abs(value) < 0.0005 else f"{value:,.{digits}f}"
    return text.replace("-", MINUS)


def size(count: float) -> str:
    """A count in at most three figures: ``950``, ``12.3k``, ``1.2M``."""
    for unit, least in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * least:
            return f"{count / least:.3g}{unit}"
    return f"{count:.0f}"


def write_report(folder: Path, run: RunSummary) -> Path:
    """Writes ``folder/report.html``, whole or not at all, and returns its path.

    The page asks for nothing outside itself. Raises DataProblem for a damaged metrics file, ResourceProblem where the
    disk refuses.
    """
    path = folder / "report.html"
    replace(path, page(run))
    return path


def page(run: RunSummary) -> str:
    """The HTML of the report: everything from outside is escaped, only our own SVG is not."""
    import jinja2
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        run=run,
        totals=_totals(run),
        rows=[row(evaluation) for evaluation in run.evaluations],
        stages=[
            (
                stage,
                _speeds(stage),
                {name: Markup(svg) for name, svg in charts(stage, f"s{number}").items()},
                [Markup(svg) for svg in gauged(stage, f"s{number}")],
                [(Markup(wide), Markup(narrow), said) for wide, narrow, said in rewarded(stage, f"s{number}")],
            )
            for number, stage in enumerate(run.stages)
        ],
        costs=COSTS,
        nothing=NOTHING,
        figure=figure,
        mean=mean,
        sources=list(dict.fromkeys(stage.energy_source for stage in run.stages)),
    )


def charts(stage: StageSummary, name: str) -> dict[str, str]:
    """A stage's curves as SVG by name; those whose numbers its metrics do not have are left out."""
    if stage.metrics_path is None:
        return {}
    from didact.run import plots

    records = read(stage.metrics_path)
    x, label = _over(records)
    train, held_out = plots.series(records, x, "loss"), plots.series(records, x, "held_out")
    drawn = {}
    if train.known:
        drawn["wide"] = plots.loss_curve(train, held_out, label, 736, 320, f"{name}w")
        drawn["narrow"] = plots.loss_curve(train, held_out, label, 350, 260, f"{name}n")
    if train.known and held_out.known:
        drawn["held_out"] = ""  # asks for a key to the two colours
    for column, title in (("learning_rate", "learning rate"), ("grad_norm", "gradient norm")):
        line = plots.series(records, x, column)
        if line.known:
            drawn[column] = plots.small(line, title, label, f"{name}{column[0]}", noisy=column == "grad_norm")
    return drawn


def gauged(stage: StageSummary, name: str) -> list[str]:
    """The curves of a stage's gauges, as SVG."""
    if stage.metrics_path is None:
        return []
    from didact.run import gauges

    records = read(stage.metrics_path)
    return gauges.curves(records, *_over(records), name)


def rewarded(stage: StageSummary, name: str) -> list[tuple[str, str, list[str]]]:
    """The rewards of a stage against the square root of the KL: wide and narrow, and what the fits say."""
    if stage.metrics_path is None:
        return []
    from didact.run import gauges

    return gauges.rewards(read(stage.metrics_path), name)


def table(evaluations: Sequence[Evaluation]) -> Table:
    """The page's table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    colours = {"better": "green", "worse": "red"}
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    drawn.add_column("measure")
    for name in ("before", "after", "change"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for one in map(row, evaluations):
        change = Text(f"{one.change} {one.verdict}".strip(), style=colours.get(one.verdict, ""))
        name = Text.assemble(plain(one.name), (f"  {plain(one.unit)}", "dim"))
        drawn.add_row(name, one.before, Text(one.after, style="bold"), change)
    return drawn


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def compared(comparison: Comparison) -> list[Any]:
    """One measure's arms for the terminal, a column a seed, and what was expected of them."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="dim")
    drawn.add_column(Text.assemble(plain(comparison.name), (f"  {plain(comparison.unit)}", "dim")))
    for seed in comparison.seeds:
        drawn.add_column(f"seed {seed}", justify="right", no_wrap=True)
    drawn.add_column("mean", justify="right", no_wrap=True)
    for arm, values in comparison.arms.items():
        drawn.add_row(f"  {plain(arm)}", *map(figure, values), Text(figure(mean(values)), style="bold"))
    lines = [Text(f"  {plain(line)}", style="green" if held else "red") for line, held in comparison.verdicts()]
    return [drawn, *lines, Text()]


def closing(run: RunSummary, commands: Sequence[str]) -> Group:
    """The last lines of a run: the table, what it took, two answers before and after, what to try next."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [table(run.evaluations), Text()] if run.evaluations else []
    parts += [line for comparison in run.comparisons for line in compared(comparison)]
    parts.append(Text(_totals(run)))
    for sample in run.samples[:2]:
        parts += [Text(), Text(_short(sample.prompt), style="bold")]
        answers = Table.grid(padding=(0, 2))
        for name, answer in (("before", sample.before), ("after", sample.after)):
            if answer is not None:
                answers.add_row(Text(f"  {name}", style="dim"), Text(_short(answer) or NOTHING))
        parts.append(answers)
    if commands:
        parts += [Text(), Text("try next", style="dim")]
        parts += [Text(f"  {command}", no_wrap=True, overflow="fold") for command in commands]
    return Group(*parts)


def _change(evaluation: Evaluation) -> tuple[str, str]:
    before, after = evaluation.before, evaluation.after
    if before is None or not (math.isfinite(before) and math.isfinite(after)):
        return UNKNOWN, ""
    if before == after:
        return "0.0 %", "same"
    verdict = "better" if (after < before) == (evaluation.better == "lower") else "worse"
    if before == 0:
        return UNKNOWN, verdict
    share = 100 * (after - before) / abs(before)
    return f"{'+' if share > 0 else MINUS}{abs(share):.1f} %", verdict


def _totals(run: RunSummary) -> str:
    """One line: tokens, time, energy and how it is known."""
    tokens = sum(stage.tokens for stage in run.stages)
    seconds = sum(stage.seconds for stage in run.stages)
    used = sum(stage.energy_wh for stage in run.stages)
    estimated = any("estimate" in stage.energy_source for stage in run.stages)
    known = " (estimate)" if estimated else ""
    return f"{size(tokens)} tokens in {duration(seconds)}, {energy(used, estimated)}{known}"


def _speeds(stage: StageSummary) -> list[str]:
    """A stage's cells under ``COSTS``."""
    speed = stage.tokens / stage.seconds if stage.tokens and stage.seconds > 0 else None
    return [
        duration(stage.seconds),
        size(stage.tokens) if stage.tokens else UNKNOWN,
        UNKNOWN if speed is None else f"{speed:,.0f}",
        UNKNOWN if stage.share is None else f"{stage.share:.0%}",
        UNKNOWN if stage.memory is None else f"{stage.memory / 1e9:.2f} GB",
        energy(stage.energy_wh, "estimate" in stage.energy_source),
    ]


def _over(records: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What curves are drawn over, and its name; where there are gauges, what is trained are answers and no tokens."""
    if any(name.startswith("gauge/") for record in records for name in record):
        return "step", "step"
    return ("trained_tokens", "trained tokens") if _all(records, "trained_tokens") else ("step", "step")


def _all(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(name in record for record in records if "loss" in record)


def _short(text: str) -> str:
    text = plain(text.strip())
    return text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " \u2026"
