"""An index in a folder: one SQLite file, and a manifest with the hash of the whole of it once it is finished."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from didact.engine.durable import MANIFEST, Written, on_disk, sync_folder, verify, write_manifest
from didact.errors import DataProblem, ResourceProblem
from didact.retrieve.store import FROM, Base, Row, Store

NAME = "index.sqlite"
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


class File(Base):
    """A connection to the SQLite file; words are found by FTS5."""

    BEGIN: ClassVar = {False: "BEGIN", True: "BEGIN IMMEDIATE"}
    FILTERS: ClassVar = {
        "kind": "kind = ?",
        "path": "(file GLOB ? OR substr(file, 1, length(?)) = ?)",
        "source": "(source GLOB ? OR substr(source, 1, length(?)) = ?)",
        "title": "instr(lower(title), lower(?)) > 0",
        "heading": "instr(lower(heading), lower(?)) > 0",
        "text": "instr(text, ?) > 0",
    }

    def __init__(self, connection: sqlite3.Connection):
        self.connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """A cursor."""
        return self.connection.execute(statement, values)

    def close(self) -> None:
        """Lets go of the file."""
        self.connection.close()

    def roll_back(self) -> None:
        """A full disk has ended the transaction already."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    def empty(self) -> bool:
        """Whether the file has no tables."""
        return not self.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def pattern(self, value: str) -> str:
        """GLOB takes it as it is."""
        return value

    def add(self, document: int, row: Row) -> int:
        """Stores a passage and its words; its number."""
        fields = (document, row.heading, row.about, row.text, row.start, row.stop)
        number = self.execute("INSERT INTO chunk VALUES (NULL, ?, ?, ?, ?, ?, ?)", fields).lastrowid
        self.execute("INSERT INTO words (rowid, about, text) VALUES (?, ?, ?)", (number, row.about, row.text))
        assert number is not None
        return number

    def drop_words(self, chosen: str, values: Sequence[str]) -> None:
        """FTS5 wants to hear the text again that it forgets."""
        texts = f"SELECT 'delete', number, about, text FROM chunk WHERE {chosen}"
        self.execute(f"INSERT INTO words (words, rowid, about, text) {texts}", values)

    def words(self, words: Sequence[str], among: str, values: Sequence[str], depth: int) -> dict[int, float]:
        """By FTS5's own BM25; each word stands in quotes, so that none is an operator."""
        only = f"AND rowid IN (SELECT number {FROM} WHERE {among})" if among else ""
        asked = f"SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? {only} ORDER BY bm25(words), rowid LIMIT ?"
        return dict(self.execute(asked, (" OR ".join(f'"{word}"' for word in words), *values, depth)).fetchall())


class Folder(Store):
    """The folder of an index."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, str(folder)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turns what SQLite says into a line about the index."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "malformed" in str(error) or "no such" in str(error):
                raise self.broken(str(error)) from error
            remedy = "check the disk, or try again"
            raise ResourceProblem(f"the index: {error}", where=self.name, remedy=remedy) from error
        except sqlite3.DatabaseError as error:
            raise self.broken(str(error)) from error

    @contextmanager
    def locked(self, building: bool = True) -> Iterator[None]:
        """Holds the folder itself, which a build makes."""
        with on_disk(self.folder, "make the index" if building else "lock the index"):
            if building:
                self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if building else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                what = f"another process is {'at work on' if building else 'building'} this index"
                raise ResourceProblem(what, where=self.name, remedy="wait until it is done") from None
            yield
        finally:
            os.close(handle)

    def connect(self, write: bool = False) -> File:
        """For reading, the file is never changed."""
        writable = os.access(self.folder, os.W_OK)
        mode = "rwc" if write else "ro" if writable else "ro&immutable=1"  # its log cannot be made there
        uri = f"file:{quote(str((self.folder / NAME).absolute()))}?mode={mode}"
        base = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False)
        if write:
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = FULL")
        return File(base)

    def begun(self) -> bool:
        """Whether there is a file."""
        return (self.folder / NAME).is_file()

    def finished(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / MANIFEST).exists()

    def verify(self) -> None:
        """By the hash of the whole file."""
        try:
            verify(self.folder)
        except DataProblem as error:
            raise self.broken(error.what) from error

    def check(self, base: Base) -> None:
        """The file's structure, its words and its passages."""
        with self.speaking():
            if base.empty():
                return
            if (said := base.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise self.broken(said.splitlines()[0])
            base.execute("INSERT INTO words(words, rank) VALUES ('integrity-check', 1)")
            if source := base.changed():
                raise self.broken(f"the passages of {source} have changed")

    def lay(self, base: Base) -> None:
        """Makes the tables; inside a transaction."""
        for statement in SCHEMA.split(";"):
            base.execute(statement)

    def remove(self) -> None:
        """Deletes the index's own files, the manifest first."""
        for name in (MANIFEST, NAME, f"{NAME}-wal", f"{NAME}-shm"):
            (self.folder / name).unlink(missing_ok=True)
        sync_folder(self.folder)

    def unseal(self) -> None:
        """Deletes the manifest."""
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def seal(self, base: Base) -> None:
        """Writes the manifest beside and renames it."""
        busy = base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        base.close()
        if busy:
            raise ResourceProblem("the index is being read without a pause", where=self.name, remedy="try again")
        path, beside = self.folder / NAME, self.folder / ".sealing"
        with on_disk(self.folder, "write the manifest"):
            with path.open("rb") as file:
                written = Written(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
            beside.mkdir(exist_ok=True)
            (beside / MANIFEST).unlink(missing_ok=True)
            write_manifest(beside, {NAME: written})
            os.replace(beside / MANIFEST, self.folder / MANIFEST)
            beside.rmdir()
            sync_folder(self.folder)
