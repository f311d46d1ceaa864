"""``metrics.jsonl``: one line of numbers a step, exact, never torn, never doubled.

Names a report understands (each optional): ``loss`` and ``held_out`` (nats per trained token),
``learning_rate``, ``grad_norm``, ``trained_tokens`` (all trained so far), ``tokens_per_second``,
``share`` (of the machine's measured peak), ``energy_wh`` (so far), ``memory`` (bytes).

A number that is not finite is written as null and named under ``nonfinite``, so a line is always
valid JSON; ``read`` puts it back. Beside a ``loss`` stands ``loss_hex``, ``float.hex`` of it, so that
two runs are compared bit for bit with grep.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from didact.errors import DataProblem, ResourceProblem


class Metrics:
    """Appends to ``path``, keeping what is there; a torn last line (a killed writer) is dropped first.

    One process writes. Each line is one ``os.write`` on a descriptor opened for appending, so a reader
    never sees half of one. Raises ResourceProblem where the disk refuses.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._on_disk():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and len(whole := _whole(path.read_bytes())) < path.stat().st_size:
                _replace(path, whole)
            self._file = self._open()

    def write(self, step: int, **numbers: float) -> None:
        """Appends ``{"step": step, **numbers}``; it is with the operating system when this returns."""
        line = _line(step, numbers)
        size = os.fstat(self._file).st_size
        with self._on_disk():
            written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, size)
            raise self._full("only part of a line could be written")

    def truncate_after(self, step: int) -> None:
        """Forgets the lines of later steps, so that a run resumed from ``step`` has none twice."""
        kept = [line for line, record in _records(self.path) if record["step"] <= step]
        with self._on_disk():
            _replace(self.path, b"".join(kept))
            os.close(self._file)
            self._file = self._open()

    def close(self) -> None:
        """Waits until the lines are on disk and gives the file back."""
        if stat.S_ISREG(os.fstat(self._file).st_mode):  # the null device, of processes that keep no record, is none
            with self._on_disk():
                os.fsync(self._file)
        os.close(self._file)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._full(error.strerror or str(error)) from error

    def _full(self, what: str) -> ResourceProblem:
        return ResourceProblem(what, where=str(self.path), remedy="free some disk space and run again to resume")


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line as a dict, non-finite numbers put back. A damaged line raises DataProblem."""
    return [_restored(record) for _, record in _records(path)]


def _line(step: int, numbers: dict[str, float]) -> bytes:
    record: dict[str, Any] = {"step": step, **numbers}
    odd = {name: repr(float(value)) for name, value in numbers.items() if not math.isfinite(value)}
    if odd:
        record.update(dict.fromkeys(odd), nonfinite=odd)
    if "loss" in numbers:
        record["loss_hex"] = float(numbers["loss"]).hex()
    return orjson.dumps(record) + b"\n"


def _restored(record: dict[str, Any]) -> dict[str, Any]:
    odd = record.pop("nonfinite", {})
    return record | {name: float(text) for name, text in odd.items()}


def _whole(content: bytes) -> bytes:
    """``content`` up to its last newline: what follows is a line whose writer was killed."""
    return content[: content.rfind(b"\n") + 1]


def _records(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    lines = _whole(path.read_bytes()).splitlines(keepends=True)
    return [(line, _parsed(line, f"{path}:{number}")) for number, line in enumerate(lines, 1)]


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    remedy = "remove the line; metrics are only a record, the checkpoints do not need them"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataProblem(f"not a line of metrics ({error})", where=where, remedy=remedy) from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise DataProblem("a line of metrics without a step", where=where, remedy=remedy)
    return record


def _replace(path: Path, content: bytes) -> None:
    """Puts ``content`` in the place of ``path``: at any instant the old file or the new one stands there."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
