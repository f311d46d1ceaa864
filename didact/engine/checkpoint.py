"""Checkpoints that survive a kill at any moment, a full disk and a flipped byte.

A checkpoint is the folder ``root/step-00000012``: ``tensors-*.safetensors`` (a file a process), ``state.json``,
small extra files, and ``manifest.json`` with every file's size and SHA-256. It is written beside its place under
a hidden name, synced to the disk, and renamed: it is there whole or not at all. Loading reads JSON and safetensors
files named in the manifest, nothing else, and never pickle.

With torch.distributed initialised every process calls ``save`` and ``latest`` at the same moment; ``root`` is a
folder they all see. Any number of processes can load what any other number saved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from didact.engine import durable, shards
from didact.errors import DataProblem, Problem

JSON = dict[str, Any] | list[Any] | str | int | float | bool | None
T = TypeVar("T")
_NAME = re.compile(r"step-(\d{8,})(\.old)?")
_STATE = "state.json"


def save(
    root: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, JSON],
    keep: int,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes the checkpoint of a step and returns its folder once all of it is on the disk.

    ``state`` and ``files`` are those of the first process. Afterwards the ``keep`` newest checkpoints remain;
    checkpoints of later steps belong to a road no longer taken (damage, a rollback) and go too.
    Raises ResourceProblem (no space for twice its size, not writable, disk errors) in every process; the
    checkpoints before this one are then untouched.
    """
    return _Save(root, step, shards.shards(tensors), _rendered(step, state, files), keep).run()


def latest(root: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint, every byte verified, or None.

    Each damaged or unfinished one passed over on the way is told to ``say`` in one line. Changes nothing.
    Raises ResourceProblem where reading is not permitted.
    """
    return _together(lambda: _latest(root, say), only_first=True)[0]


def _latest(root: Path, say: Callable[[str], None]) -> Path | None:
    if not root.is_dir():
        return None
    with durable.on_disk(root, "read the checkpoints"):
        for path in durable.leftovers(root):
            if path.name.startswith(".saving-"):
                say(f"{path}: a save that was not finished, passed over")
    passed: set[Path] = set()
    while True:  # looking anew each time: another process may be saving, and removing old ones, right now
        with durable.on_disk(root, "read the checkpoints"):
            path = next((path for path in _candidates(root) if path not in passed), None)
        if path is None:
            return None
        try:
            durable.verify(path)
        except DataProblem as problem:
            say(f"{path}: {problem.what}; passed over for the checkpoint before it")
            passed.add(path)
        else:
            return path


def load(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fills ``tensors`` in place, bit for bit, and returns the state with its ``step``.

    ``path`` comes from ``latest``, which has verified the contents; here names and sizes are compared again.
    Raises DataProblem naming the first tensor whose name, shape or type disagrees, before touching any.
    """
    written = durable.verify(path, contents=False)
    state = _read_state(path, written)
    shards.load_into(path, [name for name in written if name.endswith(".safetensors")], tensors)
    return state


def _read_state(path: Path, written: Mapping[str, durable.Written]) -> dict[str, Any]:
    if _STATE not in written:
        raise durable.damaged(path, f"{_STATE} is missing")
    try:
        state = json.loads((path / _STATE).read_bytes())
    except (ValueError, RecursionError) as error:
        raise durable.damaged(path, f"{_STATE} is not JSON") from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise durable.damaged(path, f"{_STATE} names no step")
    return state


class _Save:
    """One save. Every step is taken by all processes, which go on only when none of them has failed."""

    def __init__(self, root: Path, step: int, found: Sequence[shards.Shard], small: dict[str, bytes], keep: int):
        self.root, self.found, self.small, self.keep = root, found, small, keep
        self.path = root / f"step-{step:08d}"
        self.temp = root / f".saving-{self.path.name}"
        self.written: dict[str, durable.Written] = {}

    def run(self) -> Path:
        try:
            _together(self._prepare, only_first=True)
            for mine in _together(self._write_tensors):
                self.written |= mine
            _together(self._commit, only_first=True)
        except Problem:
            if _rank() == 0:
                with suppress(OSError):  # what cannot be removed now is a leftover for the next save
                    durable.remove(self.temp)
            raise
        return self.path

    def _prepare(self) -> None:
        with durable.on_disk(self.root, "save a checkpoint"):
            self.root.mkdir(parents=True, exist_ok=True)
            for path in durable.leftovers(self.root):
                durable.remove(path)
            size = sum(shard.whole_bytes for shard in self.found) + sum(map(len, self.small.values()))
            durable.preflight(self.root, size)
            self.temp.mkdir()

    def _write_tensors(self) -> dict[str, durable.Written]:
        name = f"tensors-{_rank() + 1:05d}.safetensors"
        with durable.on_disk(self.temp / name, "save a checkpoint"):
            return {name: durable.write_file(self.temp / name, shards.pieces(self.found))}

    def _commit(self) -> None:
        with durable.on_disk(self.root, "save a checkpoint"):
            for name, raw in self.small.items():
                self.written[name] = durable.write_file(self.temp / name, [raw])
            durable.write_manifest(self.temp, self.written)
            durable.sync_folder(self.temp)
            self._place()
            durable.sync_folder(self.root)
            self._prune()

    def _place(self) -> None:
        """Renames into place. A checkpoint of the same step stays readable as ``.old`` until the new one is there."""
        old = self.path.with_name(f"{self.path.name}.old")
        if self.path.exists():
            if old.exists():
                durable.remove(old if _looks_whole(self.path) else self.path)
            if self.path.exists():
                self.path.rename(old)
        self.temp.rename(self.path)

    def _prune(self) -> None:
        kept = [self.path]
        for path in _candidates(self.root):
            earlier = _step(path) < _step(self.path)
            if earlier and len(kept) < self.keep and _looks_whole(path) and _step(path) != _step(kept[-1]):
                kept.append(path)
            elif path != self.path:
                durable.remove(path)


def _candidates(root: Path) -> list[Path]:
    """Folders that may be checkpoints, newest first, a replaced one after its replacement."""
    found = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (-_step(path), path.name))


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-").removesuffix(".old"))


def _looks_whole(path: Path) -> bool:
    """Names and sizes agree; a check that costs nothing, before an older one is given up for this one."""
    try:
        durable.verify(path, contents=False)
    except DataProblem:
        return False
    return True


def _rendered(step: int, state: Mapping[str, JSON], files: Mapping[str, bytes] | None) -> dict[str, bytes]:
    """The small files. JSON as Python writes it: the shortest digits that give every float back, NaN, Infinity."""
    for name in files or {}:
        durable.check_name(name, Path("files"))
        if name == _STATE or name.endswith(".safetensors"):
            raise ValueError(f"{name} is a checkpoint's own name")
    whole = {"step": step, **state}
    if whole["step"] != step:
        raise ValueError(f"the state says step {whole['step']}, the checkpoint {step}")
    _check_plain(whole, "state")
    return {**(files or {}), _STATE: json.dumps(whole, indent=1).encode()}


def _check_plain(value: JSON, where: str) -> None:
    """Raises TypeError for what JSON would give back as something else: a tuple, a number as a key."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is no string")
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{where}: {type(value).__name__} is no plain JSON")


def _rank() -> int:
    return dist.get_rank() if shards.initialised() else 0


def _together(work: Callable[[], T], only_first: bool = False) -> list[T]:
    """What ``work`` returned in every process; the first Problem of any process is raised in all of them.

    Nobody returns before all have finished, so this is the barrier too.
    """
    mine: Any = None
    try:
        if not only_first or _rank() == 0:
            mine = work()
    except Problem as problem:
        mine = problem
    everyone: list[Any] = [mine]
    if shards.initialised():
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
    for result in everyone:
        if isinstance(result, Problem):
            raise result
    return everyone
