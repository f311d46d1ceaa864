"""What an index is made of: every file once, under a name that lasts."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from didact.data.formats import Document
from didact.data.source import SourceExamples
from didact.data.words import brief
from didact.errors import DataProblem, ResourceProblem
from didact.retrieve.extract import Extract
from didact.retrieve.load.files import document, load


@dataclass(frozen=True)
class Place:
    """A file, or a source that is none: the name the index calls it, its content's hash, and what is in it."""

    name: str
    sha256: str
    size: int
    documents: Callable[[], Iterator[Extract]]


def places(sources: Sequence[SourceExamples]) -> list[Place]:
    """Every file once: below the folder common to all it is named by its path, what a stage left by its reference."""
    roots = {source: root for source in sources if source.files and (root := _root(source))}
    common = Path(os.path.commonpath(roots.values())) if roots else Path()
    names: dict[Path, str] = {}
    for source in sources:
        for file in source.files:
            name = file.absolute().relative_to(common).as_posix() if source in roots else _left(source, file)
            names.setdefault(file.absolute(), name)
    found = [_file(file, name) for file, name in sorted(names.items(), key=lambda each: each[1])]
    return found + [_source(source) for source in sources if not source.files]


def _root(source: SourceExamples) -> Path | None:
    """The folder that a source names, or those of its files share; None for what a stage left, which lies elsewhere."""
    named = Path(source.source.path).expanduser().absolute()
    if named.is_dir():
        return named
    here = named.exists() or glob.has_magic(source.source.path)
    return Path(os.path.commonpath([file.absolute().parent for file in source.files])) if here else None


def _left(source: SourceExamples, file: Path) -> str:
    """``corpus/documents.jsonl`` of the reference ``corpus/documents``, wherever that stage's folder is."""
    if len(source.files) == 1:
        return source.source.path + "".join(file.suffixes[-1:])
    shared = os.path.commonpath([each.parent for each in source.files])
    return f"{source.source.path}/{file.relative_to(shared).as_posix()}"


def _file(file: Path, name: str) -> Place:
    if not file.is_file():
        raise ResourceProblem("is not a regular file", where=str(file), remedy="name a file")
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        what = f"cannot be read: {brief(error.strerror or error)}"
        raise ResourceProblem(what, where=str(file), remedy="check its permissions and its disk") from error
    name = name.encode("utf-8", "replace").decode()
    return Place(name, digest, file.stat().st_size, lambda: load(file, name))


def _source(source: SourceExamples) -> Place:
    """Data on the hub: as one file."""

    def documents() -> Iterator[Extract]:
        for one in source:
            if not isinstance(one, Document):
                raise DataProblem("is no document", where=one.where, remedy="an index holds texts: name a set of them")
            yield document(one.text, one.where)

    return Place(source.source.path, source.fingerprint, 0, documents)
