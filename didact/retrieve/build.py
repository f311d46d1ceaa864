"""Builds and updates an index: only what has changed is read, and what is finished is never lost."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from didact.data.source import SourceExamples
from didact.errors import DataProblem
from didact.retrieve import store
from didact.retrieve.chunk import cut
from didact.retrieve.embedding import Embedding
from didact.retrieve.extract import Extract
from didact.retrieve.places import Place, places
from didact.retrieve.settings import Indexing
from didact.retrieve.where import stored

BATCH = 256  # passages embedded and written together
PAUSE = 10.0  # seconds between two lines about how far it is
SAID = 20  # files left out that are named one by one
Say = Callable[[str], None]


@dataclass
class Tally:
    """What a build did."""

    added: int = 0  # documents, the changed ones too
    removed: int = 0
    embedded: int = 0  # passages
    skipped: list[str] = field(default_factory=list)  # a line each


def build(
    sources: Sequence[SourceExamples], where: str | Path, settings: Indexing, embedding: Embedding | None, say: Say
) -> dict[str, Any]:
    """Makes the index in a folder or a server hold exactly the documents of ``sources``; returns its facts.

    Files whose content is known are not read again, those that are gone are removed. Killed at any moment, the next
    build goes on with what is finished; an index that is damaged, or was made with other settings, is built anew, and
    that is said. A file that cannot be read is said and left out. Raises DataProblem where nothing could be read.
    """
    home = stored(where)
    with home.locked(), home.speaking():
        base = _opened(home, _facts(settings, embedding), say)
        there = places(sources)
        tally = Tally()
        rows = base.execute("SELECT path, sha256, problem FROM file").fetchall()
        known = {(name, sha256): problem for name, sha256, problem in rows}
        todo = [place for place in there if (place.name, place.sha256) not in known]
        gone = {name for name, _ in known} - {place.name for place in there}
        for place in there:
            if problem := known.get((place.name, place.sha256)):
                _skip(tally, problem, say)
        if gone or todo or not home.finished():
            home.unseal()
            _Writer(base, settings, embedding, tally, say).run(todo, sorted(gone))
        if len(tally.skipped) > SAID:
            say(f"left out: {len(tally.skipped) - SAID:,} more files")
        found = _counts(base, home, tally)
        if not home.finished():
            home.seal(base)
        base.close()
    return found


class _Writer:
    """Documents waiting to be embedded and written together."""

    def __init__(self, base: store.Base, settings: Indexing, embedding: Embedding | None, tally: Tally, say: Say):
        self.base, self.settings, self.embedding, self.tally, self.say = base, settings, embedding, tally, say
        self.spoke = time.monotonic()
        self.waiting: list[store.Entry] = []
        self.done: list[tuple[Place, set[str], str]] = []  # files read to their end: what is in them, what was wrong

    def run(self, todo: Sequence[Place], gone: Sequence[str]) -> None:
        """Reads every file of ``todo`` and removes those of ``gone``."""
        for name in gone:
            with self.base.transaction(write=True):
                self.tally.removed += self.base.delete("file = ?", name)
                self.base.execute("DELETE FROM file WHERE path = ?", (name,))
                self.base.step()
        for place in todo:
            self._read(place)
            if sum(len(entry.rows) for entry in self.waiting) >= BATCH or len(self.done) >= BATCH:
                self._write()
        self._write()

    def _read(self, place: Place) -> None:
        rows = self.base.execute("SELECT source, sha256 FROM document WHERE file = ?", (place.name,))
        known, found, problem = dict(rows), set[str](), ""
        try:
            for extract in place.documents():
                found.add(extract.source)
                digest = _digest(extract)
                if known.get(extract.source) != digest:
                    self.waiting.append(_entry(place.name, extract, digest, self.settings))
                if extract.note:
                    self.say(f"{place.name}: {extract.note}")
                if sum(len(entry.rows) for entry in self.waiting) >= BATCH:
                    self._write()
        except DataProblem as error:
            problem, found = str(error), set()
            self.waiting = [entry for entry in self.waiting if entry.file != place.name]
            _skip(self.tally, problem, self.say)
        self.done.append((place, found, problem))

    def _write(self) -> None:
        """Embeds what waits, and writes it with all that belongs to it in one transaction."""
        entries = _embedded(self.waiting, self.embedding)
        with self.base.transaction(write=True):
            self.base.write(entries)
            for place, found, problem in self.done:
                rows = self.base.execute("SELECT source FROM document WHERE file = ?", (place.name,)).fetchall()
                for source in {source for (source,) in rows} - found:
                    self.tally.removed += self.base.delete("file = ? AND source = ?", place.name, source)
                self.base.write_file(place.name, place.sha256, place.size, problem)
            self.base.step()
        self.tally.added += len(entries)
        self.tally.embedded += sum(len(entry.rows) for entry in entries)
        self.waiting, self.done = [], []
        if time.monotonic() - self.spoke > PAUSE:
            self.spoke = time.monotonic()
            self.say(f"{self.tally.added:,} documents, {self.tally.embedded:,} passages so far")


def _entry(file: str, extract: Extract, digest: str, settings: Indexing) -> store.Entry:
    rows = []
    for span in cut(extract, settings.size, settings.overlap):
        about = " > ".join(dict.fromkeys([*([extract.title] if extract.title else []), *span.path]))
        text = extract.text[span.start : span.end]
        rows.append(store.Row(" > ".join(span.path), about, text, span.start, span.end))
    text_sha256 = hashlib.sha256(extract.text.strip().encode()).hexdigest()
    title = extract.title or extract.source
    return store.Entry(file, extract.source, title, extract.kind, text_sha256, digest, tuple(rows))


def _digest(extract: Extract) -> str:
    return hashlib.sha256(repr((extract.text, extract.title, extract.kind, extract.blocks)).encode()).hexdigest()


def _embedded(entries: Sequence[store.Entry], embedding: Embedding | None) -> list[store.Entry]:
    """The same documents with the vectors of their passages, which are read under what they are about."""
    if embedding is None or not entries:
        return list(entries)
    texts = [f"{row.about}\n{row.text}" if row.about else row.text for entry in entries for row in entry.rows]
    vectors = iter(embedding.vectors(texts, "document").astype("<f2") if texts else ())
    return [
        replace(entry, rows=tuple(replace(row, vector=next(vectors).tobytes()) for row in entry.rows))
        for entry in entries
    ]


# --- what there is, and whether it can be gone on with -----------------------------------------------------


def _facts(settings: Indexing, embedding: Embedding | None) -> dict[str, str]:
    """What an index must agree in to be gone on with."""
    return {
        "size": str(settings.size),
        "overlap": str(settings.overlap),
        "embedder": embedding.name if embedding else "",
        "content": embedding.content if embedding else "",
    }


def goes_on(where: str | Path, settings: Indexing, embedding: Embedding | None) -> bool:
    """Whether a build with these settings would go on with the finished index that is there."""
    home = stored(where)
    if not (home.begun() and home.finished()):
        return False
    with home.speaking():
        base = home.connect()
        known = base.facts()
        base.close()
    return _alike(known, _facts(settings, embedding))


def _alike(known: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether an index has these facts; the same model may lie elsewhere."""
    must = {**wanted, "format": store.FORMAT, "embedder": known.get("embedder")}
    return bool(known) and all(known.get(key) == value for key, value in must.items())


def _opened(home: store.Store, wanted: dict[str, str], say: Say) -> store.Base:
    """The index to go on with, or a new one."""
    if home.begun():
        try:
            base = _checked(home)
            known = {} if base.empty() else base.facts()
        except DataProblem as error:
            say(f"{home}: {error.what}; it is built anew")
        else:
            if _alike(known, wanted):
                if known["embedder"] != wanted["embedder"]:
                    home.unseal()
                    base.set({"embedder": wanted["embedder"]})
                return base
            base.close()
            if known:  # nothing is known of one whose making was interrupted
                say(f"{home}: made with other settings, so it is built anew")
    home.remove()
    return home.create(wanted)


def _checked(home: store.Store) -> store.Base:
    """The index that is there. Raises DataProblem where it is damaged."""
    finished = home.finished()
    if finished:
        home.verify()
    with home.speaking():
        base = home.connect(write=True)
        if not finished:
            home.check(base)
    return base


# --- what is said ------------------------------------------------------------------------------------------


def _skip(tally: Tally, problem: str, say: Say) -> None:
    tally.skipped.append(problem)
    if len(tally.skipped) <= SAID:
        say(f"left out: {problem}")


def _counts(base: store.Base, home: store.Store, tally: Tally) -> dict[str, Any]:
    """The facts of an index. Raises DataProblem for an empty one."""
    found = base.counts()
    if not found["passages"]:
        if tally.skipped:
            raise DataProblem(f"nothing could be read: {tally.skipped[0]}", where=home.name)
        raise DataProblem("there is no text to index", where=home.name, remedy="name files that hold some")
    known = base.facts()
    return {
        **found,
        "embedder": known["embedder"] or "none",
        "size": int(known["size"]),
        "overlap": int(known["overlap"]),
        "added": tally.added,
        "removed": tally.removed,
        "left out": tally.skipped,
    }
