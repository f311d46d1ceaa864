"""A phase of rollouts on the disk: whole before its first step is taken, so that a killed run learns from the same."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from didact.batch import Batch
from didact.engine import durable
from didact.errors import DataProblem

COLUMNS, STATE, SAID = "columns.safetensors", "state.json", "said.jsonl"


@dataclass(frozen=True)
class Phase:
    """The rows of a phase, and what the next one must know of it: ``beta``, and what it ended with."""

    rows: Batch
    state: Mapping[str, Any]


def place(root: Path, number: int) -> Path:
    """Where a phase lies."""
    return root / f"phase-{number:08d}"


def keep(root: Path, number: int, phase: Phase, said: list[dict[str, Any]]) -> None:
    """Writes a phase beside and renames it. Raises ResourceProblem where the disk refuses."""
    path = place(root, number)
    with durable.on_disk(root, "keep the answers of a phase"):
        root.mkdir(parents=True, exist_ok=True)
        for left in durable.leftovers(root):
            durable.remove(left)
        if path.exists():  # damaged
            durable.remove(path)
        files = {
            COLUMNS: save({name: column.contiguous() for name, column in phase.rows.items()}),
            STATE: json.dumps(phase.state).encode(),
            SAID: "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in said).encode(),
        }
        durable.preflight(root, sum(map(len, files.values())))
        beside = root / f".saving-{path.name}"
        beside.mkdir()
        written = {name: durable.write_file(beside / name, [raw]) for name, raw in files.items()}
        durable.write_manifest(beside, written)
        durable.sync_folder(beside)
        beside.rename(path)
        durable.sync_folder(root)


def kept(root: Path, number: int, say: Callable[[str], None]) -> Phase | None:
    """A phase that was finished before; None where there is none, or, which is said, it is damaged."""
    path = place(root, number)
    if not path.exists():
        return None
    try:
        durable.verify(path)
        return Phase(Batch(load_file(path / COLUMNS)), json.loads((path / STATE).read_bytes()))
    except (DataProblem, SafetensorError, ValueError) as problem:
        what = problem.what if isinstance(problem, DataProblem) else str(problem)
        say(f"{path}: {what}; its answers are drawn again, from the model as it is now")
        return None


def forget(root: Path, before: int) -> None:
    """Removes the phases that no checkpoint needs any more."""
    for path in sorted(root.glob("phase-*")):
        if int(path.name.removeprefix("phase-")) < before:
            with durable.on_disk(root, "remove what is not needed"):
                durable.remove(path)


def needed(checkpoints: Path, task: str) -> int:
    """The earliest cursor of a task that a checkpoint may take it back to; 0 where there is no checkpoint."""
    found = []
    for path in checkpoints.glob("step-*/state.json"):
        try:
            found.append(int(json.loads(path.read_bytes())["cursors"][task]))
        except (OSError, ValueError, KeyError, TypeError):  # a damaged one takes nobody anywhere
            continue
    return min(found, default=0)
