"""What is shown of a finished run: the report's figures gathered from its stages, the closing table, what to try."""

import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from didact.recipe import Learning, Recipe, dump
from didact.recipe.measured import expectation
from didact.run.life import Finished
from didact.run.report import Comparison, Evaluation, RunSummary, Sample, StageSummary, closing, write_report


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
        stages=[stage for one in finished for stage in _stages(one)],
        evaluations=[e for one in finished for e in _evaluations(one)],
        samples=[
            Sample(sample["prompt"], sample["before"], sample["after"])
            for fact in facts
            for sample in fact.get("samples", [])
        ],
        facts=_facts(recipe, finished),
        comparisons=[comparison for one in finished for comparison in _comparisons(one)],
    )


def commands(folder: Path, finished: Sequence[Finished]) -> list[str]:
    """What to try next with this run."""
    trained = [one.stage for one in finished if isinstance(one.stage, Learning)]
    if not any(one.artifact.model for one in finished):
        return []
    samples = [s["prompt"] for one in finished for s in one.artifact.facts.get("samples", [])]
    run = _short(folder)
    recipe = _short(folder / "recipe.yaml")
    asked = f" --prompt {shlex.quote(samples[0])}" if samples else ""
    slower = [f"didact run {recipe} {one.name}.learning_rate={one.learning_rate / 2:g}" for one in trained[-1:]]
    left = [facts for one in finished for facts in one.artifact.facts.get("trained", [one.artifact.facts])[:1]]
    writes = [facts["writes"] for facts in left if "writes" in facts]
    chat = [f"didact chat {run}{asked}"] if all(writes[-1:]) else []
    return [*chat, f"didact inspect {recipe}", *slower]


def _stages(one: Finished) -> list[StageSummary]:
    """A training stage, or all that a comparison trained, whose curves stay in the folders of their arms."""
    facts = one.artifact.facts
    if isinstance(one.stage, Learning):
        return [_trained(one.stage.kind, one.stage.name, facts, one.folder.path / "metrics.jsonl")]
    return [_trained(trained["kind"], trained["name"], trained, None) for trained in facts.get("trained", [])]


def _trained(kind: str, name: str, facts: Mapping[str, Any], metrics: Path | None) -> StageSummary:
    return StageSummary(
        kind=kind,
        name=name,
        seconds=facts["seconds"],
        tokens=facts["tokens"],
        energy_wh=facts["energy_wh"],
        counts=facts["counts"],
        metrics_path=metrics,
        said=facts["said"],
        energy_source=facts["energy_source"],
        share=facts["share"],
        memory=facts["memory"],
        stopped=facts.get("stopped", ""),
    )


def _comparisons(one: Finished) -> list[Comparison]:
    found = one.artifact.facts.get("comparison", {"seeds": (), "measures": {}})
    return [
        Comparison(
            name,
            taken["unit"],
            taken["better"],
            found["seeds"],
            taken["arms"],
            [(text, held) for text, held in one.artifact.facts["expect"] if expectation(text).measure == name],
        )
        for name, taken in found["measures"].items()
    ]


def _evaluations(one: Finished) -> list[Evaluation]:
    facts: dict[str, Any] = dict(one.artifact.facts)
    measured = dict(facts.get("evaluations", {}))
    if facts.get("heldout"):
        measured[f"{one.stage.name} held-out"] = facts["heldout"]
    if facts.get("general"):
        measured[f"{one.stage.name}: general text"] = facts["general"]
    taken: dict[str, Any] = facts.get("measures", {})
    return [
        *(
            Evaluation(name, numbers.get("before"), numbers["after"], "bits per byte")
            for name, numbers in measured.items()
        ),
        *(
            Evaluation(name, number.get("before"), number["value"], number["unit"], number["better"])
            for name, number in taken.items()
        ),
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
