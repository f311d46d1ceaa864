"""What is printed, and what is kept: ``results/NAME.json`` and the table in ``results/README.md``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
HEADER = """# Didact beside its peers

Made by `make bench`; every run is a fresh process, ours and the peers' in turns, on the same token ids in the same
order. The ratio is ours / peer in tokens per second: the median over the rounds, and the least and the most of the
pairs. Memory is the peak of the whole process. `agreement` compares the loss of every step (or the first greedy
tokens). The JSON files beside this page hold every single time and both loss curves.
"""


def machine() -> dict[str, Any]:
    """Processor, cores and versions; no names and no paths."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": torch.cpu.get_capabilities().get("avx512_bf16", False),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def rows(result: dict[str, Any]) -> Iterator[list[str]]:
    """A row for each peer and part: work, peer, ours and theirs in tok/s, ratio, spread, memories, agreement."""
    ours = result["ours"]
    for pair in result["peers"]:
        for part, ratio in pair["ratio"].items():
            yield [
                f"{result['name']} {part}".strip(),
                pair["name"],
                f"{ours['tokens_per_second'][part]:,.0f}",
                f"{pair['tokens_per_second'][part]:,.0f}",
                f"{ratio['median']:.2f}",
                f"{ratio['least']:.2f}-{ratio['most']:.2f}",
                f"{ours['peak_bytes'] / 1e9:.1f}",
                f"{pair['peak_bytes'] / 1e9:.1f}",
                _agreement(pair["agreement"]),
            ]


COLUMNS = ["work", "peer at its best", "ours tok/s", "peer tok/s", "ratio", "spread", "ours GB", "peer GB", "agreement"]


def _agreement(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not compared"
    if "same_first_tokens" in found:
        said = f"first {found['same_first_tokens']:.0f} tokens"
    else:
        said = f"losses within {found['largest_difference']:.2g}"
    return said if found["holds"] else f"NOT HELD: {said}"


def show(result: dict[str, Any]) -> None:
    """The table of a case, why its settings are each peer's best, versions and both loss curves."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=160)
    console.print(f"\n[bold]{result['name']}[/]: {result['about']}")
    table = Table(*COLUMNS)
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    for line in details(result):
        console.print(line, highlight=False, markup=False)


def details(result: dict[str, Any]) -> Iterator[str]:
    """Lines below the table."""
    ours = result["ours"]
    yield f"{ours['name']}: {ours['about']}; warm-up {ours['warmup_seconds']:.1f} s"
    for pair in result["peers"]:
        packages = ", ".join(f"{name} {version}" for name, version in pair["versions"].items())
        yield f"{pair['name']}: {pair['about']}; warm-up {pair['warmup_seconds']:.1f} s; {packages}"
    for tried in result["trial"]:
        yield f"  tried {tried['name']}: {_tried(tried)}"
    for side in (ours, *result["peers"]):
        if spent := side.get("spent"):
            yield f"where a step's {sum(spent.values()):.1f} s go, {side['name']}: {_spent(spent)}"
    if ours["losses"]:
        for side in (ours, *result["peers"]):
            yield f"losses {side['name']}: {' '.join(f'{loss:.4f}' for loss in side['losses'])}"
    if served := ours.get("served"):
        yield f"{ours['name']}: {waited(served)}; {refused(served['refusals'])}"
        for pair in result["peers"]:
            yield f"{pair['name']}: {waited(pair['served'], served)}"
    for failed in result["failed"]:
        yield f"FAILED {failed['side']}: {failed['said']}"


def _spent(spent: dict[str, float]) -> str:
    """Largest first, without what takes no time."""
    whole = sum(spent.values())
    order = sorted(spent.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {one:.2f} ({one / whole:.0%})" for name, one in order if one > 0.001 * whole)


def waited(served: dict[str, Any], ours: dict[str, Any] | None = None) -> str:
    """Answers and the time to the first token, as a ratio to ours where there is one: above 1 we are sooner."""
    half, most = percentiles(served["waits"])
    said = f"{served['answers']} answers, {served['broken']} not ended properly; "
    said += f"first token after {half:.2f} s, 99% within {most:.2f} s"
    if ours is None:
        return said
    our_half, our_most = percentiles(ours["waits"])
    return f"{said}; {half / our_half:.2f} and {most / our_most:.2f} times ours"


def percentiles(waits: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    half, most = np.percentile(waits or [np.nan], [50, 99])
    return float(half), float(most)


def refused(late: list[float]) -> str:
    """How soon a full queue says no."""
    return f"a full queue refuses after {1e3 * median(late):.0f} ms (median of {len(late)})"


def _tried(tried: dict[str, Any]) -> str:
    if "failed" in tried:
        return f"failed ({tried['failed']})"
    rates = ", ".join(f"{part} {rate:,.0f} tok/s".strip() for part, rate in tried["tokens_per_second"].items())
    return f"{rates}, {tried['peak_bytes'] / 1e9:.1f} GB; {tried['about']}" + (
        f"; not its best: {tried['lesser']}" if tried["lesser"] else ""
    )


def keep(result: dict[str, Any]) -> None:
    """Writes the JSON of a case and the page of all cases."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['name']}.json").write_text(json.dumps(result, indent=1) + "\n")
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    (RESULTS / "README.md").write_text(page(results))


def page(results: list[dict[str, Any]]) -> str:
    """The table of every case, then what stands behind each."""
    lines = [HEADER, _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    lines += [_row(row) for result in results for row in rows(result)]
    for result in results:
        where, plan = result["machine"], result["plan"]
        unit = plan.get("unit", "steps")
        lines += ["", f"## {result['name']}", "", f"{result['about']}.", ""]
        lines += [f"- {line.strip()}" for line in details(result)]
        lines += [f"- tolerance: {result['why']}"]
        lines += [
            f"- {plan['rounds']} rounds of {plan['warmup']} + {plan['measured']} {unit}, {result['seconds']:.0f} s; "
            f"`{result['command']}`; {where['cpu']}, {where['cores']} cores, torch {where['torch']}, "
            f"Python {where['python']}"
        ]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
