"""An index on the disk: one SQLite file of files, documents, passages, their words and their vectors.

What belongs to a document is written in one transaction and never half. A finished index has a manifest with the hash
of the whole file; one without it was interrupted and is gone on with, or checked to the last passage first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from didact.engine.durable import MANIFEST, Written, on_disk, sync_folder, write_manifest
from didact.errors import DataProblem, ResourceProblem

NAME = "index.sqlite"
FORMAT = "1"
WAIT = 30.0  # seconds for another process to let go
SCHEMA = """
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE file (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    problem TEXT NOT NULL);
CREATE TABLE document (id INTEGER PRIMARY KEY, file TEXT NOT NULL, source TEXT NOT NULL, title TEXT NOT NULL,
    kind TEXT NOT NULL, text_sha256 TEXT NOT NULL, sha256 TEXT NOT NULL, seal TEXT NOT NULL, UNIQUE (file, source));
CREATE TABLE chunk (number INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES document,
    heading TEXT NOT NULL, about TEXT NOT NULL, text TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL);
CREATE INDEX chunk_document ON chunk (document);
CREATE TABLE vector (number INTEGER PRIMARY KEY REFERENCES chunk, data BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (about, text, content='chunk', content_rowid='number',
    tokenize='porter unicode61 remove_diacritics 2');
"""


@dataclass(frozen=True)
class Row:
    """One passage to be stored: its span, headings, what it is about (title and headings), text, and f16 vector."""

    heading: str
    about: str
    text: str
    start: int
    stop: int
    vector: bytes = b""


@dataclass(frozen=True)
class Entry:
    """One document to be stored; ``sha256`` is of all that its passages are made of, ``text_sha256`` of its text."""

    file: str
    source: str
    title: str
    kind: str
    text_sha256: str
    sha256: str
    rows: tuple[Row, ...]

    @property
    def seal(self) -> str:
        """SHA-256 of the passages, to know them again when they are read back."""
        return sealed((row.heading, row.about, row.text, row.start, row.stop, row.vector) for row in self.rows)


def sealed(rows: Iterator[tuple]) -> str:
    """SHA-256 of passages as tuples."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


@contextmanager
def speaking(folder: Path) -> Iterator[None]:
    """Turns what SQLite says into a line about the index."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "malformed" in str(error) or "no such" in str(error):
            raise broken(folder, str(error)) from error
        raise ResourceProblem(
            f"the index: {error}", where=str(folder), remedy="check the disk, or try again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise broken(folder, str(error)) from error


def broken(folder: Path, what: str) -> DataProblem:
    """The one way to say that an index is no longer what was written."""
    return DataProblem(f"the index is damaged ({what})", where=str(folder), remedy="build it again with didact index")


@contextmanager
def locked(folder: Path, building: bool = True) -> Iterator[None]:
    """Nobody else builds here meanwhile, nor opens the index where it is ``building``."""
    with on_disk(folder, "lock the index"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if building else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"another process is {'at work on' if building else 'building'} this index"
            raise ResourceProblem(what, where=str(folder), remedy="wait until it is done") from None
        yield
    finally:
        os.close(handle)


def connect(folder: Path, write: bool = False) -> sqlite3.Connection:
    """A connection that begins and ends its transactions by word; for reading, the file is never changed."""
    mode = "rwc" if write else "ro" if os.access(folder, os.W_OK) else "ro&immutable=1"  # its log cannot be made there
    uri = f"file:{quote(str((folder / NAME).absolute()))}?mode={mode}"
    base = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False)
    if write:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
    return base


@contextmanager
def transaction(base: sqlite3.Connection, write: bool = False) -> Iterator[None]:
    """All or nothing; for reading, one moment of the index."""
    base.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
    except BaseException:
        if base.in_transaction:  # a full disk has ended it already
            base.execute("ROLLBACK")
        raise
    base.execute("COMMIT")


def create(folder: Path, facts: Mapping[str, str]) -> sqlite3.Connection:
    """A new, empty index."""
    base = connect(folder, write=True)
    with transaction(base, write=True):
        for statement in SCHEMA.split(";"):
            base.execute(statement)
        known = {**facts, "format": FORMAT, "id": uuid.uuid4().hex, "generation": "0"}
        base.executemany("INSERT INTO fact VALUES (?, ?)", known.items())
    return base


def facts(base: sqlite3.Connection) -> dict[str, str]:
    """What the index knows of itself."""
    return dict(base.execute("SELECT key, value FROM fact"))


def counts(base: sqlite3.Connection) -> dict[str, int]:
    """How many files, documents, passages and vectors it holds."""
    tables = {"files": "file", "documents": "document", "passages": "chunk", "vectors": "vector"}
    return {name: base.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for name, table in tables.items()}


def remove(folder: Path) -> None:
    """Deletes the index's own files, the manifest first."""
    for name in (MANIFEST, NAME, f"{NAME}-wal", f"{NAME}-shm"):
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def check(base: sqlite3.Connection, folder: Path) -> None:
    """Raises DataProblem unless everything stored is what was stored."""
    with speaking(folder):
        if (said := base.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise broken(folder, said.splitlines()[0])
        base.execute("INSERT INTO words(words, rank) VALUES ('integrity-check', 1)")
        for number, source, seal in base.execute("SELECT id, source, seal FROM document"):
            if sealed(rows_of(base, number)) != seal:
                raise broken(folder, f"the passages of {source} have changed")


def rows_of(base: sqlite3.Connection, document: int) -> Iterator[tuple]:
    """The passages of a document in their order, as ``Entry.seal`` hashes them."""
    return iter(
        base.execute(
            "SELECT heading, about, text, start, stop, coalesce(data, x'') FROM chunk LEFT JOIN vector USING (number) "
            "WHERE document = ? ORDER BY number",
            (document,),
        )
    )


def write(base: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Stores documents in place of what was stored of them before; inside a transaction."""
    for entry in entries:
        delete(base, "file = ? AND source = ?", entry.file, entry.source)
        fields = (entry.file, entry.source, entry.title, entry.kind, entry.text_sha256, entry.sha256, entry.seal)
        document = base.execute("INSERT INTO document VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", fields).lastrowid
        for row in entry.rows:
            number = base.execute(
                "INSERT INTO chunk VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                (document, row.heading, row.about, row.text, row.start, row.stop),
            ).lastrowid
            base.execute("INSERT INTO words (rowid, about, text) VALUES (?, ?, ?)", (number, row.about, row.text))
            if row.vector:
                base.execute("INSERT INTO vector VALUES (?, ?)", (number, row.vector))


def delete(base: sqlite3.Connection, which: str, *values: str) -> int:
    """Deletes the documents that the condition ``which`` names, and all that belongs to them; how many."""
    chosen = f"document IN (SELECT id FROM document WHERE {which})"
    base.execute(
        f"INSERT INTO words (words, rowid, about, text) SELECT 'delete', number, about, text FROM chunk WHERE {chosen}",
        values,
    )
    base.execute(f"DELETE FROM vector WHERE number IN (SELECT number FROM chunk WHERE {chosen})", values)
    base.execute(f"DELETE FROM chunk WHERE {chosen}", values)
    return base.execute(f"DELETE FROM document WHERE {which}", values).rowcount


def step(base: sqlite3.Connection) -> None:
    """Says to whoever has the index open that it has changed; inside the transaction that changes it."""
    base.execute("UPDATE fact SET value = value + 1 WHERE key = 'generation'")


def seal(base: sqlite3.Connection, folder: Path) -> None:
    """Closes a finished index and writes its manifest beside and renamed, the last thing."""
    busy = base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    base.close()
    if busy:
        raise ResourceProblem("the index is being read without a pause", where=str(folder), remedy="try again")
    path, beside = folder / NAME, folder / ".sealing"
    with on_disk(folder, "write the manifest"):
        with path.open("rb") as file:
            written = Written(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
        beside.mkdir(exist_ok=True)
        (beside / MANIFEST).unlink(missing_ok=True)
        write_manifest(beside, {NAME: written})
        os.replace(beside / MANIFEST, folder / MANIFEST)
        beside.rmdir()
        sync_folder(folder)
