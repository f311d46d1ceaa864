"""What every domain does at the end: hold out by hash, write whole files, say where they came from."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.errors import ResourceProblem

Line = dict[str, Any]
PROVENANCE = "provenance.json"


def held_out(name: str, seed: int, share: float) -> bool:
    """Whether a name falls into the held-out share: a pure function of its arguments, uniform over names."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def drawn_index(count: int, *key: object) -> int:
    """One of ``range(count)`` as a pure function of ``key``."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


def publish(folder: Path, files: Mapping[str, Sequence[Line]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes JSON Lines files and, last, ``provenance.json`` with their counts and SHA-256; returns the provenance.

    Each file appears whole or not at all. The old provenance goes first, so a folder with one is complete.
    """
    contents = {
        name: "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()
        for name, lines in files.items()
    }
    provenance = {
        **facts,
        "counts": {name: len(lines) for name, lines in files.items()},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROVENANCE).unlink(missing_ok=True)
        for name, content in contents.items():
            write(folder / name, content)
        write(folder / PROVENANCE, f"{json.dumps(provenance, indent=2, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise ResourceProblem(
            f"cannot write the domain: {error.strerror}",
            where=str(folder),
            remedy="free some space or name another folder",
        ) from error
    return provenance


def write(path: Path, content: bytes) -> None:
    """Writes beside and renames into place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
