"""Runs sides in turns, each in a fresh process, and holds them against each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.case import Case, Inputs, Job, Measured, Peer, Plan, Served, Side, beside
from benchmarks.inputs import write

LONGEST = 1200  # seconds of one run, by far


@dataclass(frozen=True)
class Failed:
    """A side that gave no result, and the end of what it said."""

    side: str
    said: str


Run = Measured | Failed


@dataclass(frozen=True)
class Pair:
    """One peer beside ours: the side that stood for it and a run of it for each round."""

    peer: Peer
    side: Side
    runs: list[Measured]


@dataclass(frozen=True)
class Outcome:
    """Everything one case measured."""

    case: Case
    plan: Plan
    ours: list[Measured]
    pairs: list[Pair]
    trial: dict[str, Run]
    failed: list[Failed]
    seconds: float


def run_case(case: Case, plan: Plan) -> Outcome:
    """The trial round, where there is one, then the rounds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="didact-bench-") as name:
        folder = Path(name)
        tried = replace(plan, measured=plan.trial)
        trial = _trial(case, case.prepare(folder, tried), folder) if plan.trial else {}
        failed = [run for run in trial.values() if isinstance(run, Failed)]
        chosen = {peer.name: _best(peer, trial, case.parts(tried)) for peer in case.peers}
        inputs = case.prepare(folder, plan)
        ours: list[Measured] = []
        runs: dict[str, list[Measured]] = {name: [] for name in chosen}
        for number in range(plan.rounds):
            mine = _run(case.ours, inputs, folder, f"{case.name} round {number + 1}/{plan.rounds}")
            if isinstance(mine, Failed):
                raise SystemExit(f"{case.name}: our own side failed: {mine.said}")
            ours.append(mine)
            for peer, side in list(chosen.items()):
                theirs = _run(side, inputs, folder, f"{case.name} round {number + 1}/{plan.rounds}")
                if isinstance(theirs, Failed):
                    failed.append(theirs)
                    del chosen[peer]
                else:
                    runs[peer].append(theirs)
    pairs = [Pair(peer, chosen[peer.name], runs[peer.name]) for peer in case.peers if peer.name in chosen]
    return Outcome(case, plan, ours, pairs, trial, failed, time.monotonic() - began)


def _trial(case: Case, inputs: Inputs, folder: Path) -> dict[str, Run]:
    """Every side of every peer once."""
    return {side.name: _run(side, inputs, folder, f"{case.name} trial") for peer in case.peers for side in peer.sides}


def _best(peer: Peer, trial: dict[str, Run], parts: dict[str, slice]) -> Side:
    """The fastest side that does the same work, in the last part; the first where nothing was tried."""
    part = list(parts.values())[-1]
    rates = {
        side.name: run.best(part)
        for side in peer.sides
        if isinstance(run := trial.get(side.name), Measured) and not side.lesser
    }
    return max(peer.sides, key=lambda side: rates.get(side.name, 0.0))


def _run(side: Side, inputs: Inputs, folder: Path, what: str) -> Run:
    """One run in a process of its own; what it compiles is kept for the next one in the folder of this case."""
    job = write(folder / "job.json", Job(side.run, dict(side.options), inputs).to_json())
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", str(job), str(result)]
    began = time.monotonic()
    with (folder / "said.txt").open("w+") as said:
        code = subprocess.run(command, env=environment, stdout=said, stderr=said, timeout=LONGEST).returncode
        said.seek(0)
        tail = said.read()[-2000:]
    wall = time.monotonic() - began
    if code or not result.is_file():
        print(f"  {what}: {side.name} FAILED after {wall:.0f} s\n{tail}", flush=True)
        return Failed(side.name, tail.strip().splitlines()[-1] if tail.strip() else f"exit code {code}")
    measured = Measured.from_json(json.loads(result.read_text()))
    rate = sum(measured.tokens) / sum(measured.seconds)
    print(
        f"  {what}: {side.name}: {rate:,.0f} tok/s with warm-up, {measured.peak / 1e9:.1f} GB, {wall:.0f} s",
        flush=True,
    )
    return measured


# ---- what the runs come to -----------------------------------------------------------------------------------------


def summary(outcome: Outcome) -> dict[str, Any]:
    """Medians, ratios, agreement and everything they were made from, as JSON."""
    case, plan = outcome.case, outcome.plan
    parts = case.parts(plan)
    return {
        "name": case.name,
        "about": case.about,
        "plan": asdict(plan),
        "seconds": outcome.seconds,
        "ours": {"name": case.ours.name, "about": case.ours.about, **_side(outcome.ours, parts, plan)},
        "peers": [_pair(pair, outcome, parts) for pair in outcome.pairs],
        "trial": [_tried(peer, side, outcome) for peer in case.peers for side in peer.sides if outcome.trial],
        "failed": [asdict(one) for one in outcome.failed],
    }


def _side(runs: list[Measured], parts: dict[str, slice], plan: Plan) -> dict[str, Any]:
    return {
        "tokens_per_second": {name: median(run.rate(part) for run in runs) for name, part in parts.items()},
        "warmup_seconds": median(sum(run.seconds[: plan.warmup]) for run in runs),
        "peak_bytes": median(run.peak for run in runs),
        "losses": runs[0].losses,
        "runs": [{"seconds": run.seconds, "tokens": run.tokens, "peak_bytes": run.peak} for run in runs],
        "served": _served([run.served for run in runs if run.served]),
        "spent": _spent(runs, plan),
    }


def _spent(runs: list[Measured], plan: Plan) -> dict[str, float]:
    """Seconds of a timed step by what they went into, the mean over all; empty where a side does not say."""
    steps = [step for run in runs for step in run.spent[plan.warmup :]]
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: sum(step.get(name, 0.0) for step in steps) / len(steps) for name in names}


def _served(runs: list[Served]) -> dict[str, Any] | None:
    """All rounds of a server together; None of what is none."""
    if not runs:
        return None
    return {
        "answers": sum(run.answers for run in runs),
        "broken": sum(run.broken for run in runs),
        "waits": [wait for run in runs for wait in run.waits],
        "refusals": [wait for run in runs for wait in run.refusals],
    }


def _pair(pair: Pair, outcome: Outcome, parts: dict[str, slice]) -> dict[str, Any]:
    ratios = {
        name: sorted(mine.rate(part) / other.rate(part) for mine, other in zip(outcome.ours, pair.runs, strict=True))
        for name, part in parts.items()
    }
    return {
        "peer": pair.peer.name,
        "name": pair.side.name,
        "about": pair.side.about,
        "versions": versions(pair.peer.packages, pair.peer.apart),
        **_side(pair.runs, parts, outcome.plan),
        "ratio": {name: {"median": median(some), "least": some[0], "most": some[-1]} for name, some in ratios.items()},
        "memory_ratio": median(run.peak for run in outcome.ours) / median(run.peak for run in pair.runs),
        "agreement": agreement(outcome.ours[0], pair.runs[0], outcome.case) if pair.peer.agrees else None,
    }


def _tried(peer: Peer, side: Side, outcome: Outcome) -> dict[str, Any]:
    run, parts = outcome.trial[side.name], outcome.case.parts(replace(outcome.plan, measured=outcome.plan.trial))
    known = {"peer": peer.name, "name": side.name, "about": side.about, "lesser": side.lesser}
    if isinstance(run, Failed):
        return {**known, "failed": run.said}
    agrees = agreement(outcome.ours[0], run, outcome.case) if peer.agrees and outcome.ours else None
    rates = {name: run.rate(part) for name, part in parts.items()}
    return {**known, "tokens_per_second": rates, "peak_bytes": run.peak, "agreement": agrees}


def agreement(ours: Measured, theirs: Measured, case: Case) -> dict[str, Any]:
    """Whether both did the same: the largest difference of losses, or how many first tokens are the same."""
    if ours.losses:
        difference = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=False))
        return {"largest_difference": difference, "allowed": case.tolerance, "holds": difference <= case.tolerance}
    common = [_common(a, b) for a, b in zip(ours.generated, theirs.generated, strict=True)]
    mean = sum(common) / len(common)
    return {"same_first_tokens": mean, "wanted": case.tolerance, "holds": mean >= case.tolerance}


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def versions(packages: tuple[str, ...], apart: str) -> dict[str, str]:
    from importlib.metadata import distributions

    path = [*([beside(apart)] if apart else []), *sys.path]
    return {name: next(iter(distributions(name=name, path=path))).version for name in packages}
