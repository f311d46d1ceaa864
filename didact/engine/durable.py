"""Files that are either whole and on the disk, or not there: the few system calls a checkpoint stands on.

Everything goes through ``os`` one call at a time, so that tests can kill the process or fail the disk at
each of them (tests/engine/chaos.py). A folder is whole when its ``manifest.json``, written last, says so.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from didact.errors import DataProblem, ResourceProblem

MANIFEST = "manifest.json"
FORMAT = "didact-folder-1"
_CHUNK = 1 << 24  # bytes handed to one write
_MANIFEST_LIMIT = 1 << 24  # bytes; a file that claims to be a longer manifest is not one
_REMEDY = {
    errno.ENOSPC: "free space there or choose another disk",
    errno.EDQUOT: "free space there or raise the quota",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
    errno.EROFS: "choose a folder on a writable disk",
}


@dataclass(frozen=True)
class Written:
    """What the manifest knows of a file: its length in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


@contextmanager
def on_disk(where: Path, doing: str) -> Iterator[None]:
    """Turns what the operating system refuses into one line: ``where: cannot <doing>: <why>; <remedy>``."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, "check the disk")
        raise ResourceProblem(f"cannot {doing}: {error.strerror or error}", where=str(where), remedy=remedy) from error


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> Written:
    """Writes a new file and returns once its bytes are on the disk.

    The hash is of the bytes given, not of those read back, so damage on the way to the disk shows too.
    Raises OSError, also when the file exists.
    """
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in _chunks(pieces):
            digest.update(chunk)
            size += len(chunk)
            while chunk:
                chunk = chunk[os.write(handle, chunk) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    return Written(size, digest.hexdigest())


def _chunks(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _CHUNK):
            yield view[start : start + _CHUNK]


def sync_folder(path: Path) -> None:
    """Returns once the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(folder: Path, files: Mapping[str, Written]) -> None:
    """Says that a folder is whole: the last file written in it."""
    body = {"format": FORMAT, "files": {name: [file.size, file.sha256] for name, file in sorted(files.items())}}
    write_file(folder / MANIFEST, [_sealed(body)])


def _sealed(body: dict) -> bytes:
    """A manifest's bytes, ending in a hash of themselves: one flipped byte anywhere shows."""
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "seal": seal}, sort_keys=True, indent=1).encode()


def verify(folder: Path, contents: bool = True) -> dict[str, Written]:
    """The files of a whole folder by name.

    ``contents=False`` compares names and sizes only, without reading the files. Files that the manifest does
    not name are never looked at. Raises DataProblem naming the first thing wrong, ResourceProblem where
    reading is not permitted.
    """
    try:
        files = _read_manifest(folder)
        for name, file in files.items():
            _verify_file(folder / name, file, contents)
    except PermissionError as error:
        remedy = "make the folder readable"
        raise ResourceProblem(f"cannot read it: {error.strerror}", where=str(folder), remedy=remedy) from error
    except OSError as error:
        raise damaged(folder, f"{Path(error.filename or folder).name}: {error.strerror}") from error
    return files


def damaged(where: Path, what: str) -> DataProblem:
    """The one way to say that something written earlier is no longer what it was."""
    return DataProblem(f"damaged, {what}", where=str(where), remedy="use an earlier one, or remove it")


def _read_manifest(folder: Path) -> dict[str, Written]:
    path = folder / MANIFEST
    if not path.is_file():
        raise damaged(folder, f"{MANIFEST} is missing")
    if path.stat().st_size > _MANIFEST_LIMIT:
        raise damaged(folder, f"{MANIFEST} is too long")
    raw = path.read_bytes()
    try:
        body = json.loads(raw)
        body.pop("seal")
        whole = raw == _sealed(body) and body["format"] == FORMAT
        files = {name: Written(size, sha256) for name, (size, sha256) in body["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} is not a manifest") from error
    if not whole:
        raise damaged(folder, f"{MANIFEST} was changed")
    for name in files:
        check_name(name, folder)
    return files


def check_name(name: str, folder: Path) -> None:
    """Raises DataProblem unless ``name`` is one plain name inside ``folder``."""
    if name in ("", ".", "..", MANIFEST) or "/" in name or "\\" in name or "\0" in name:
        raise damaged(folder, f"{name!r} cannot be the name of a file here")


def _verify_file(path: Path, expected: Written, contents: bool) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path.parent, f"{path.name} is not a regular file")
    if found.st_size != expected.size:
        raise damaged(path.parent, f"{path.name} has {found.st_size} bytes instead of {expected.size}")
    if contents:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                raise damaged(path.parent, f"the bytes of {path.name} have changed")


def preflight(folder: Path, size: int) -> None:
    """Raises ResourceProblem unless twice ``size`` bytes are free where ``folder`` is."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        need = f"{2 * size / 1e6:.1f} MB free (twice the checkpoint's size)"
        remedy = "free space there or choose another disk"
        raise ResourceProblem(f"saving needs {need}, {free / 1e6:.1f} MB are", where=str(folder), remedy=remedy)


def remove(folder: Path) -> None:
    """Takes a folder out of sight in one step, then deletes it; killed in between, ``leftovers`` finds it."""
    hidden = folder if folder.name.startswith(".") else folder.with_name(f".removing-{folder.name}")
    if hidden != folder:
        os.rename(folder, hidden)
    shutil.rmtree(hidden)


def leftovers(root: Path) -> list[Path]:
    """What killed saves and removals left in ``root``."""
    return sorted(path for path in root.iterdir() if path.name.startswith((".saving-", ".removing-")))
