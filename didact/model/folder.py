"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from didact.errors import ResourceProblem


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its place when the block ends well and is removed when not.

    Files are flushed to the disk before the rename. An older ``folder`` stays until the new one is complete; for
    the instant between the two renames it lies beside it under a ``.old`` name, from where it comes back if the
    second one fails.
    """
    folder = Path(os.path.abspath(folder))
    mark = uuid.uuid4().hex[:8]
    fresh, old = folder.with_name(f".{folder.name}.{mark}.new"), folder.with_name(f".{folder.name}.{mark}.old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        _flush(fresh)
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # the library's own error for a disk that refuses
        why = error.strerror or error if isinstance(error, OSError) else error
        remedy = "free some space, or choose a folder that can be written"
        raise ResourceProblem(f"cannot be written ({why})", where=str(folder), remedy=remedy) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
