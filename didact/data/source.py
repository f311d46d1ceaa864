"""Where a recipe's data lies: names to files, files to examples, and the fingerprint of it all."""

from __future__ import annotations

import glob
import hashlib
import heapq
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from didact.data import judged
from didact.data.example import Example
from didact.data.files import READERS, known, read, reader, without_nulls
from didact.data.formats import parse
from didact.data.judged import is_feedback
from didact.data.settings import Data, Source
from didact.data.words import brief, listed, nearest
from didact.errors import DataProblem, MissingExtra, ResourceProblem, UsageProblem

HUB = re.compile(r"(?P<mark>hub:)?(?P<name>[\w.-]+/[\w.-]+)(?::(?P<split>[\w.+%\[\]:-]+))?")


@dataclass(frozen=True)
class SourceExamples:
    """The examples of one source; each iteration reads them again, in the same order.

    ``files`` is empty for a source on the hub and for feedback. ``skipped`` are files of a folder or glob whose kind is
    not known. A sample is the same for the same seed, and a smaller one is part of a larger one.
    """

    source: Source
    files: tuple[Path, ...]
    skipped: tuple[Path, ...] = ()
    seed: int = 0

    def __iter__(self) -> Iterator[Example]:
        if self.source.sample is None:
            return self._all()
        return (example for i, example in enumerate(self._all()) if i in self._sampled)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what iterating yields: names and contents of the files, and the sample and its seed."""
        sample = self.source.sample
        parts = [[name, digest] for name, digest in self._contents()]
        return hashlib.sha256(orjson.dumps([parts, sample, self.seed if sample else 0])).hexdigest()

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records that ``__iter__`` makes examples of, with where each stands."""
        kept = None if self.source.sample is None else self._sampled
        return (one for i, one in enumerate(self._records()) if kept is None or i in kept)

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in self.files:
            yield from read(file)
        if not self.files:
            yield from self._said if is_feedback(self.source.path) else _hub_records(self.source.path)

    def _all(self) -> Iterator[Example]:
        for file in self.files:
            yield from parse(read(file))
        if not self.files:
            yield from parse(self._said if is_feedback(self.source.path) else _hub_records(self.source.path))

    @cached_property
    def _said(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Feedback is read once: it may grow while it is looked at."""
        return judged.records(self.source.path)

    @cached_property
    def _sampled(self) -> frozenset[int]:
        """Indices of the sample: those whose hash with the seed is smallest, in one counting pass."""
        count = sum(1 for _ in self._records())
        wanted = self.source.sample or count
        if wanted > count:
            raise UsageProblem(
                f"a sample of {wanted:,} is more than the {count:,} examples there are",
                where=self.source.path,
                remedy="ask for fewer, or for all by naming no number",
            )
        return frozenset(heapq.nsmallest(wanted, range(count), key=self._rank))

    def _rank(self, index: int) -> bytes:
        return hashlib.blake2b(f"{self.seed}:{index}".encode(), digest_size=16).digest()

    def _contents(self) -> Iterator[tuple[str, str]]:
        """Yields ``(name below the common folder, SHA-256)`` of each file."""
        if not self.files:
            digest = hashlib.sha256()
            for example in self._all():
                digest.update(repr(example).encode("utf-8", "backslashreplace"))
            yield self.source.path, digest.hexdigest()
            return
        base = os.path.commonpath([file.absolute().parent for file in self.files])
        for file in self.files:
            if not file.is_file():  # a pipe or a device would block, or never end
                raise ResourceProblem("is not a regular file", where=str(file), remedy="name a file")
            with _accessible(file), file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            yield os.fsencode(os.path.relpath(file.absolute(), base)).hex(), digest.hexdigest()


def examples(data: Data, outputs: Mapping[str, Path], seed: int, also: Collection[str] = ()) -> list[SourceExamples]:
    """The sources of a stage's data, their names resolved; ``outputs`` maps ``stage/output`` to what it left.

    ``also`` are suffixes of files that the caller reads itself, besides those that hold examples.
    Raises UsageProblem for a name that leads nowhere, with the nearest that does; DataProblem where
    nothing readable is found there; MissingExtra for the hub without ``datasets``.
    """
    found = []
    for source in data.sources:
        with _accessible(source.path):
            files, skipped = _files(source.path, outputs, also)
        found.append(SourceExamples(source, files, skipped, seed))
    return found


def fingerprint(data: Data, outputs: Mapping[str, Path], also: Collection[str] = ()) -> str:
    """SHA-256 of the settings and of every file's name (below its source) and content."""
    found = examples(data, outputs, 0, also)
    parts = [[source.source.model_dump(mode="json"), sorted(source._contents())] for source in found]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


# --- names to files ----------------------------------------------------------------------------------------


def _files(path: str, outputs: Mapping[str, Path], also: Collection[str]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files a name stands for, sorted, and those left out because their kind is not known."""
    if is_feedback(path):
        return (), ()
    place = Path(outputs.get(path, path)).expanduser()
    if place.is_dir():
        return _of_known_kind(path, _walk(place), also)
    if place.exists():
        if place.suffix.lower() not in also:
            reader(place)  # an unknown suffix is said now, not when training starts
        return (place,), ()
    if _on_hub(path, outputs):
        _datasets(path)
        return (), ()
    if glob.has_magic(path):
        matches = (Path(match) for match in glob.iglob(str(place), recursive=True))
        return _of_known_kind(path, (match for match in matches if match.is_file()), also)
    raise _missing(path, place, outputs)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, hidden ones left out, links followed once."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over a folder it may not open

    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in names if real not in seen and not name.startswith("."))
        seen.add(real)


def _of_known_kind(
    path: str, files: Iterator[Path], also: Collection[str]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    found = sorted(set(files))
    kept = tuple(file for file in found if known(file) or file.suffix.lower() in also)
    skipped = tuple(file for file in found if not (known(file) or file.suffix.lower() in also))
    if not kept and not skipped:
        raise UsageProblem("no files there", where=path, remedy="name a file, or a folder or pattern with files")
    if not kept:
        names = listed(file.name for file in skipped)
        raise DataProblem(
            f"no file of a known kind ({names})", where=path, remedy=f"known are {', '.join([*READERS, *also])}"
        )
    return kept, skipped


def _missing(path: str, place: Path, outputs: Mapping[str, Path]) -> UsageProblem:
    """The error for a name that leads nowhere, with the nearest name that leads somewhere."""
    while not place.parent.is_dir():
        place = place.parent
    beside = sorted(name for name in os.listdir(place.parent) if not name.startswith("."))
    meant = nearest(path, outputs)
    names = {name.partition(".")[0]: name for name in beside} | {name: name for name in beside}
    if not meant and (name := nearest(place.name, names)):
        meant = str(place.parent / names[name])
    remedy = f"did you mean {meant}?" if meant else f"{place.parent.absolute()} holds {listed(beside) or 'nothing'}"
    return UsageProblem("no such file, folder or output", where=path, remedy=remedy)


@contextmanager
def _accessible(place: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceProblem(
            f"cannot be read: {brief(error.strerror or error)}",
            where=str(error.filename or place),
            remedy="check its permissions and its disk",
        ) from error


# --- the hub -----------------------------------------------------------------------------------------------


def _on_hub(path: str, outputs: Mapping[str, Path]) -> bool:
    """Whether the name is of the hub: it says so, or it is ``org/name`` and nothing nearby could be meant."""
    match = HUB.fullmatch(path)
    if path.startswith("hub:") and not match:
        raise UsageProblem("not a name on the hub", where=path, remedy="wanted hub:org/name or hub:org/name:split")
    if match is None or match["mark"]:
        return match is not None
    organisation = match["name"].split("/")[0]
    stages = {output.split("/")[0] for output in outputs}
    return not (known(Path(path)) or Path(organisation).exists() or nearest(organisation, stages))


def _datasets(path: str) -> Any:
    try:
        return import_module("datasets")
    except ImportError:
        raise MissingExtra("datasets", "hub", f"reading {path} from the hub") from None


def _hub_records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one split ("train" unless said) of a data set on the hub."""
    datasets, match, row = _datasets(path), HUB.fullmatch(path), 0
    name, split = (match["name"], match["split"] or "train") if match else (path, "train")
    try:
        for row, record in enumerate(datasets.load_dataset(name, split=split), 1):
            yield f"{path}:row {row}", without_nulls(record)
    except (OSError, ValueError, ImportError, datasets.exceptions.DatasetsError) as error:
        where = f"{path}:row {row + 1}" if row else path
        raise DataProblem(brief(error, 200), where=where, remedy="check the name, the split and the network") from error
    if not row:
        raise DataProblem("no examples", where=path, remedy="name another split or leave it out")
