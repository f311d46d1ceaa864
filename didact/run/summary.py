"""What is shown of a finished run: the report's figures gathered from its stages, the closing table, what to try."""

import platform
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from didact.recipe import Learning, Recipe, dump
from didact.run.life import Finished
from didact.run.report import Evaluation, RunSummary, Sample, StageSummary, closing, write_report


def close(recipe: Recipe, folder: Path, finished: Sequence[Finished], say: Callable[[str], None]) -> RunSummary:
    """Writes ``report.html`` and prints the closing lines to stdout."""
    summary = gather(recipe, finished)
    page = write_report(folder, summary)
    Console().print(closing(summary, commands(folder, finished)))
    say(f"report: {_short(page)}")
    return summary


def gather(recipe: Recipe, finished: Sequence[Finished]) -> RunSummary:
    """All figures of a run, from its stages' records alone: a skipped stage shows what it showed before."""
    facts = [one.artifact.facts for one in finished]
    return RunSummary(
        name=recipe.name,
        recipe_yaml=dump(recipe),
        stages=[_stage(one) for one in finished if isinstance(one.stage, Learning)],
        evaluations=[e for one in finished for e in _evaluations(one)],
        samples=[
            Sample(sample["prompt"], sample["before"], sample["after"])
            for fact in facts
            for sample in fact.get("samples", [])
        ],
        facts=_facts(recipe, finished),
    )


def commands(folder: Path, finished: Sequence[Finished]) -> list[str]:
    """Three things to try next with this run."""
    trained = [one.stage for one in finished if isinstance(one.stage, Learning)]
    if not trained:
        return []
    samples = [s["prompt"] for one in finished for s in one.artifact.facts.get("samples", [])]
    run = _short(folder)
    recipe = _short(folder / "recipe.yaml")
    last = trained[-1]
    asked = f" --prompt {shlex.quote(samples[0])}" if samples else ""
    return [
        f"didact chat {run}{asked}",
        f"didact inspect {recipe}",
        f"didact run {recipe} {last.name}.learning_rate={last.learning_rate / 2:g}",
    ]


def _stage(one: Finished) -> StageSummary:
    facts = one.artifact.facts
    return StageSummary(
        kind=one.stage.kind,
        name=one.stage.name,
        seconds=facts["seconds"],
        tokens=facts["tokens"],
        energy_wh=facts["energy_wh"],
        counts=facts["counts"],
        metrics_path=one.folder.path / "metrics.jsonl",
        said=facts["said"],
        energy_source=facts["energy_source"],
        share=facts["share"],
        memory=facts["memory"],
    )


def _evaluations(one: Finished) -> list[Evaluation]:
    facts: dict[str, Any] = dict(one.artifact.facts)
    measured = dict(facts.get("evaluations", {}))
    if facts.get("heldout"):
        measured[f"{one.stage.name} held-out"] = facts["heldout"]
    return [
        Evaluation(name, numbers.get("before"), numbers["after"], "bits per byte") for name, numbers in measured.items()
    ]


def _facts(recipe: Recipe, finished: Sequence[Finished]) -> dict[str, str]:
    sets = [
        f"{name}: {numbers['tokens']:,} tokens, {numbers['bytes']:,} bytes"
        for one in finished
        for name, numbers in one.artifact.facts.get("evaluations", {}).items()
    ]
    return {
        "base": recipe.base if isinstance(recipe.base, str) else recipe.base.model_dump_json(),
        "seed": str(recipe.seed),
        **({"held out": "; ".join(sets)} if sets else {}),
        "stages": ", ".join(one.folder.path.name for one in finished),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("didact", "torch", "transformers")),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
    }


def _short(path: Path) -> str:
    """Relative to here where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
