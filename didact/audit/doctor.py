"""``didact doctor``: what this machine has, and the laws held on a recipe's own architecture, tokenizer and data."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from didact.audit.machine import Finding, findings
from didact.errors import GateFailed


def examine(recipe: Path | None, overrides: Sequence[str], runs: Path, say: Callable[[str], None]) -> None:
    """Prints what was found to stdout. Raises GateFailed, after all of it, when a law does not hold."""
    console = Console(soft_wrap=True)
    for finding in findings(runs):
        show(finding, console)
    if recipe is None:
        return
    from didact.audit.trial import Measured, trials

    measured: list[Measured] = []
    for one in trials(recipe, overrides, runs, say):
        say(f"{one.stage}: {one.law}: {'ok' if one.ok else 'FAILED'}")
        measured.append(one)
    console.print(table(measured))
    failed = [f"{one.stage}: {one.law}" for one in measured if not one.ok]
    if failed:
        remedy = "run `didact doctor` with --debug, and report this with the recipe"
        raise GateFailed(
            f"{len(failed)} of {len(measured)} checks failed: {'; '.join(failed)}", where=str(recipe), remedy=remedy
        )


def show(finding: Finding, console: Console) -> None:
    """One line, and a second one for a worry."""
    console.print(Text(f"{finding.name:16}", style="bold").append(finding.value, style="not bold"))
    if finding.worry:
        console.print(Text(f"{'':14}! {finding.worry}", style="bold red"))


def table(measured: Iterable) -> Table:
    """Every law with its distance and bound."""
    drawn = Table("stage", "law", "measured", "bound", "", title="The laws, at toy size", title_justify="left")
    for one in measured:
        distance = f"{one.distance:.2g}" if one.note == "" else one.note
        verdict = Text("ok", style="green") if one.ok else Text("failed", style="bold red")
        drawn.add_row(one.stage, one.law, distance, f"{one.bound:.0e}" if one.bound else "equal", verdict)
    return drawn
