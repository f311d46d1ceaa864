"""What a case of the battery is, and short ways to spoil a world."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Spoil = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """In a world made wrong by ``spoil``, ``didact ARGS`` must end with ``code`` and say ``says`` in one line.

    ``done`` counts the stages that had finished by then.
    """

    id: str
    spoil: Spoil
    args: str
    code: int
    says: str
    done: int = 0


def some(few: Iterable[Any], rest: Iterable[Any]) -> list[Any]:
    """Parameters of which the rest is left to the full form."""
    return [*few, *(pytest.param(each, marks=pytest.mark.slow) for each in rest)]


def nothing(folder: Path) -> None:
    """Leaves a good world."""


def write(name: str, content: str | bytes) -> Spoil:
    """Writes one file."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def recipe(stages: str, base: str = "./base", name: str = "r", more: str = "") -> Spoil:
    """Writes recipe.yaml of these stages."""
    return write("recipe.yaml", f"name: {name}\nbase: {base}\n{more}stages: [{stages}]\n")


def pretrain(settings: str) -> Spoil:
    """A recipe of one short stage of pretraining with more settings."""
    return recipe("{pretrain: {data: docs.jsonl, max_steps: 1, " + settings + "}}")


def edit(name: str, **fields: Any) -> Spoil:
    """Sets fields of a JSON file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | fields))

    return spoil


def cut(name: str, keep: float) -> Spoil:
    """Keeps that share of a file's bytes."""

    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(keep * len(data))])

    return spoil


def drop(*names: str) -> Spoil:
    """Removes files."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """One after another."""

    def spoil(folder: Path) -> None:
        for each in spoils:
            each(folder)

    return spoil


def complaints(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("didact: ")]


def left(world: Path) -> list[str]:
    """What should not be there after a mistake: anything unfinished in runs/ or the cache."""
    found = [path for root in ("runs", "cache") for path in (world / root).rglob("*")]
    found += [path for path in world.iterdir() if path.name not in ("runs", "cache")]
    return [str(path) for path in found if path.name.startswith(".") or path.suffix in (".tmp", ".new", ".old")]


def done(world: Path) -> int:
    return len(list((world / "runs").rglob("done.json")))
