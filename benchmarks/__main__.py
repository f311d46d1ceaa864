"""``python -m benchmarks [names] [--quick] [--rounds N]``: Didact beside its peers."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from benchmarks import report
from benchmarks.cases import CASES, small
from benchmarks.rounds import run_case, summary

QUICK = ("sft", "lora", "pretrain", "generate")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(CASES)}; default all")
    parser.add_argument("--quick", action="store_true", help="two rounds of a small form beside one peer, kept nowhere")
    parser.add_argument("--rounds", type=int, help="rounds instead of the plan's")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(CASES)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    results = [one(name, asked) for name in asked.names or (QUICK if asked.quick else CASES)]
    broken = [result["name"] for result in results if not sound(result)]
    if broken:
        print(f"not sound: {', '.join(broken)}; a side failed, or its losses do not agree", file=sys.stderr)
    return bool(broken)


def one(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Runs, shows and keeps one case; a quick run is shown only."""
    case = small(CASES[name]) if asked.quick else CASES[name]
    plan = case.quick if asked.quick else case.full
    plan = replace(plan, rounds=asked.rounds or plan.rounds)
    outcome = run_case(case, plan)
    result = {**summary(outcome), "why": case.why, "machine": report.machine(), "command": command()}
    report.show(result)
    if not asked.quick:
        report.keep(result)
    return result


def command() -> str:
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def sound(result: dict[str, Any]) -> bool:
    """Whether every side gave a result and every peer in our precision agrees with us."""
    agreements = [pair["agreement"] for pair in result["peers"] if pair["agreement"]]
    return not result["failed"] and all(agreement["holds"] for agreement in agreements)


if __name__ == "__main__":
    sys.exit(main())
