"""What an index keeps: files, documents, passages, their words and their vectors; the same in a file and in a server.

What belongs to a document is written in one transaction and never half. A finished index is sealed; one that is not was
interrupted and is gone on with, or checked to the last passage first.
"""

from __future__ import annotations

import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from didact.errors import DataProblem

FORMAT = "1"
FROM = "FROM chunk JOIN document ON document.id = chunk.document"


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


def sealed(rows: Iterable[tuple]) -> str:
    """SHA-256 of passages as tuples."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


class Base(ABC):
    """A connection to an index. Statements are standard SQL with ``?`` for values; what is not, a kind says itself.

    ``FILTERS`` are the conditions by which passages are chosen; all their values but patterns stand for themselves.
    """

    FILTERS: ClassVar[Mapping[str, str]]
    BEGIN: ClassVar[Mapping[bool, str]]  # by whether it will write

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """A cursor."""

    @abstractmethod
    def close(self) -> None:
        """Lets go."""

    @abstractmethod
    def empty(self) -> bool:
        """Whether not even the tables are there: its making was interrupted."""

    @abstractmethod
    def add(self, document: int, row: Row) -> int:
        """Stores a passage and its words; its number."""

    @abstractmethod
    def drop_words(self, chosen: str, values: Sequence[str]) -> None:
        """Forgets the words of the passages that a condition names."""

    @abstractmethod
    def words(self, words: Sequence[str], among: str, values: Sequence[str], depth: int) -> dict[int, float]:
        """The passages that hold some of the words, at most ``depth``, by BM25; ``among`` is a condition or empty."""

    @abstractmethod
    def pattern(self, value: str) -> str:
        """What FILTERS take for a pattern in which ``*`` stands for anything."""

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[None]:
        """All or nothing; for reading, one moment of the index."""
        self.execute(self.BEGIN[write])
        try:
            yield
        except BaseException:
            self.roll_back()
            raise
        self.execute("COMMIT")

    @abstractmethod
    def roll_back(self) -> None:
        """Takes back what the transaction did, where it is not over already."""

    def facts(self) -> dict[str, str]:
        """What the index knows of itself."""
        return dict(self.execute("SELECT key, value FROM fact").fetchall())

    def set(self, facts: Mapping[str, str]) -> None:
        """Changes what it knows."""
        for key, value in facts.items():
            self.execute("DELETE FROM fact WHERE key = ?", (key,))
            self.execute("INSERT INTO fact VALUES (?, ?)", (key, value))

    def counts(self) -> dict[str, int]:
        """How many files, documents, passages and vectors it holds."""
        tables = {"files": "file", "documents": "document", "passages": "chunk", "vectors": "vector"}
        return {name: self.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for name, table in tables.items()}

    def found_vectors(self) -> list[tuple[int, bytes]]:
        """Every vector under its passage's number, in order."""
        return self.execute("SELECT number, data FROM vector ORDER BY number").fetchall()

    def changed(self) -> str:
        """The source of a document whose passages are not what was stored, empty where there is none."""
        asked = "SELECT heading, about, text, start, stop, data FROM chunk LEFT JOIN vector USING (number) "
        for number, source, seal in self.execute("SELECT id, source, seal FROM document").fetchall():
            rows = self.execute(f"{asked} WHERE document = ? ORDER BY number", (number,))
            if sealed((*row[:-1], bytes(row[-1] or b"")) for row in rows) != seal:
                return source
        return ""

    def write(self, entries: Sequence[Entry]) -> None:
        """Stores documents in place of what was stored of them before; inside a transaction."""
        for entry in entries:
            self.delete("file = ? AND source = ?", entry.file, entry.source)
            fields = (entry.file, entry.source, entry.title, entry.kind, entry.text_sha256, entry.sha256, entry.seal)
            names = "file, source, title, kind, text_sha256, sha256, seal"
            made = self.execute(f"INSERT INTO document ({names}) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id", fields)
            document = made.fetchone()[0]
            for row in entry.rows:
                number = self.add(document, row)
                if row.vector:
                    self.execute("INSERT INTO vector VALUES (?, ?)", (number, row.vector))

    def write_file(self, path: str, sha256: str, size: int, problem: str) -> None:
        """Says that a file was read to its end, and what was wrong with it."""
        self.execute("DELETE FROM file WHERE path = ?", (path,))
        fields = (path, sha256, size, problem)
        self.execute("INSERT INTO file (path, sha256, size, problem) VALUES (?, ?, ?, ?)", fields)

    def delete(self, which: str, *values: str) -> int:
        """Deletes the documents that the condition ``which`` names, and all that belongs to them; how many."""
        chosen = f"document IN (SELECT id FROM document WHERE {which})"
        self.drop_words(chosen, values)
        self.execute(f"DELETE FROM vector WHERE number IN (SELECT number FROM chunk WHERE {chosen})", values)
        self.execute(f"DELETE FROM chunk WHERE {chosen}", values)
        return self.execute(f"DELETE FROM document WHERE {which}", values).rowcount

    def step(self) -> None:
        """Says to whoever has the index open that it has changed; inside the transaction that changes it."""
        self.execute("UPDATE fact SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'generation'")


class Store(ABC):
    """Where an index lies. ``name`` is how it is spoken of; names of models are relative to ``folder``."""

    name: str
    folder: Path

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def speaking(self) -> AbstractContextManager[None]:
        """Turns what the database says into a line about the index."""

    @abstractmethod
    def locked(self, building: bool = True) -> AbstractContextManager[None]:
        """Nobody else builds here meanwhile, nor opens the index where it is ``building``."""

    @abstractmethod
    def connect(self, write: bool = False) -> Base:
        """A connection that begins and ends its transactions by word."""

    @abstractmethod
    def begun(self) -> bool:
        """Whether there is something."""

    @abstractmethod
    def finished(self) -> bool:
        """Whether it is sealed."""

    @abstractmethod
    def verify(self) -> None:
        """Raises DataProblem where a finished index is no longer what was sealed."""

    @abstractmethod
    def check(self, base: Base) -> None:
        """Raises DataProblem unless all that an unfinished index holds is what was stored."""

    @abstractmethod
    def lay(self, base: Base) -> None:
        """Makes the tables; inside a transaction."""

    @abstractmethod
    def remove(self) -> None:
        """Deletes the index, its seal first."""

    @abstractmethod
    def unseal(self) -> None:
        """Says that it is not finished any more."""

    @abstractmethod
    def seal(self, base: Base) -> None:
        """Closes a finished index and seals it, the last thing."""

    def create(self, facts: Mapping[str, str]) -> Base:
        """A new, empty index."""
        base = self.connect(write=True)
        with base.transaction(write=True):
            self.lay(base)
            base.set({**facts, "format": FORMAT, "id": uuid.uuid4().hex, "generation": "0"})
        return base

    def broken(self, what: str) -> DataProblem:
        """The one way to say that an index is no longer what was written."""
        remedy = "build it again with didact index"
        return DataProblem(f"the index is damaged ({what})", where=self.name, remedy=remedy)
