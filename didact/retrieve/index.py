"""Searches an index: by words, by vectors, or by both."""

from __future__ import annotations

import hashlib
import math
import queue
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from didact.data.words import brief, nearest
from didact.engine.durable import MANIFEST, verify
from didact.errors import DataProblem, UsageProblem
from didact.retrieve import store
from didact.retrieve.embedding import Embedding, load_same
from didact.retrieve.extract import clean

Mode = Literal["hybrid", "dense", "words"]
Rerank = Callable[[str, Sequence[str]], Sequence[float]]
"""A question and passages to a number each, the higher the better."""

DEPTH = 100  # passages each way of searching hands to fusion
FUSION = 60  # k of reciprocal-rank fusion (Cormack et al. 2009)
RERANKED = 32  # passages that a model reads again
TERMS = 64  # different words of a question that are looked up
PATTERN, STARS = 300, 8  # characters and asterisks of a filter: matching many takes for ever
POINTER = "index"  # in a run folder: a line with the path of its index


@dataclass(frozen=True)
class Passage:
    """A passage and where it stands: ``text`` is ``[start:end]`` of the text that the loader extracts from ``source``.

    ``score`` is of the way it was found: of fused ranks, the cosine, BM25, or what reranking gave; ``similarity`` is
    the cosine with the question, NaN where the index has no vectors or only words were searched. ``file`` is the path
    below the folder indexed, ``source`` the same or a record's id.
    """

    text: str
    source: str
    title: str
    heading: str
    start: int
    end: int
    kind: str
    score: float
    number: int
    file: str
    similarity: float = math.nan


@dataclass(frozen=True)
class _Matrix:
    """The vectors of one moment of the index: of what moment, numbers ascending [N], unit vectors fp32 [N, D]."""

    moment: tuple[str, str]
    numbers: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class _Near:
    """Passages by number, ascending, and the cosine of each with a question, both [N]."""

    numbers: np.ndarray
    cosines: np.ndarray

    def best(self, base: sqlite3.Connection, only: _Only, depth: int) -> dict[int, float]:
        """The nearest, equal ones by number."""
        cosines = self.cosines
        if only.condition:
            rows = base.execute(f"SELECT number {FROM} WHERE {only.condition}", only.values).fetchall()
            kept = np.isin(self.numbers, np.array(rows, np.int64).reshape(-1))
            cosines = np.where(kept, cosines, -np.inf)
        bound = np.partition(cosines, -depth)[-depth] if depth < len(cosines) else -np.inf
        chosen = np.flatnonzero((cosines >= bound) & (cosines > -np.inf))
        chosen = chosen[np.argsort(-cosines[chosen], kind="stable")][:depth]
        return dict(zip(self.numbers[chosen].tolist(), cosines[chosen].tolist(), strict=True))

    def of(self, number: int) -> float:
        """The cosine of one passage."""
        return float(self.cosines[np.searchsorted(self.numbers, number)])


@dataclass(frozen=True)
class _Only:
    """A condition of SQL, empty for none, and its values: names come from a fixed list, values only as parameters."""

    condition: str
    values: tuple[str, ...]


class Index:
    """An index opened for reading; threads may share it. What a build changes meanwhile is seen by the next search."""

    def __init__(self, folder: Path, embedding: Embedding | None, device: str):
        self.folder, self._device = folder, device
        self._embedding, self._lock = embedding, threading.Lock()
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        with self._reading() as base:
            self.facts: dict[str, Any] = {
                **store.facts(base),
                **store.counts(base),
            }
            self._matrix = _loaded(base, _moment(base))

    @classmethod
    def open(cls, folder: Path, *, embedding: Embedding | None = None, device: str = "auto") -> Index:
        """The index in a folder, or the one that ``runs/NAME/index`` or ``runs/NAME`` points at, checked whole.

        ``embedding`` makes the vectors of questions; by default the model that made those of the passages, loaded with
        the first question. Raises DataProblem for an index that is missing, unfinished or damaged.
        """
        place = find(Path(folder))
        with store.locked(place, building=False):
            if not (place / MANIFEST).exists():
                what = "the index is unfinished, its build was interrupted"
                raise DataProblem(what, where=str(place), remedy="build it again; what is finished is kept")
            try:
                verify(place)
            except DataProblem as error:
                raise store.broken(place, error.what) from error
            with store.speaking(place):
                return cls(place, embedding, device)

    @property
    def dense(self) -> bool:
        """Whether it has vectors."""
        return bool(self.facts["vectors"])

    def search(
        self,
        query: str,
        k: int = 8,
        *,
        mode: Mode = "hybrid",
        where: Mapping[str, str] | None = None,
        rerank: Rerank | None = None,
    ) -> list[Passage]:
        """The ``k`` passages nearest to a question, the best first; hybrid is words alone where there are no vectors.

        ``where`` keeps passages whose ``kind`` is, whose ``path`` or ``source`` begins with or is a pattern for, or
        whose ``title`` or ``heading`` holds, the value. ``rerank`` orders the best anew. Raises UsageProblem for
        another key and for vectors that are not there.
        """
        if k < 1:
            raise UsageProblem(f"k is {k}", remedy="ask for one passage or more")
        if mode == "dense" and not self.dense:
            remedy = "search its words, or build it with an embedder"
            raise UsageProblem("the index has no vectors to search", where=str(self.folder), remedy=remedy)
        if not query.strip():
            return []
        mode = mode if self.dense else "words"
        only = _condition(where or {})
        asked = None if mode == "words" else self._asked(query)
        depth = max(DEPTH, 2 * k)
        with self._reading() as base:
            words = {} if mode == "dense" else _words(base, query, only, depth)
            near = None if asked is None else self._near(base, asked)
            dense = near.best(base, only, depth) if near else {}
            scores = fused([list(words), list(dense)]) if mode == "hybrid" else words or dense
            best = sorted(scores, key=lambda number: (-scores[number], number))[: max(k, RERANKED if rerank else 0)]
            found = [_passage(base, number, scores[number], near.of(number) if near else math.nan) for number in best]
        return (reranked(query, found, rerank) if rerank else found)[:k]

    def sources_of(self, text: str) -> set[str]:
        """The sources of the documents that are this text, or else have it in one of their passages."""
        text = clean(text).strip()
        digest = hashlib.sha256(text.encode()).hexdigest()
        with self._reading() as base:
            rows = base.execute("SELECT source FROM document WHERE text_sha256 = ?", (digest,)).fetchall()
            rows = (
                rows
                or base.execute(f"SELECT source {FROM} WHERE instr(text, ?) > 0", (clean(text).strip(),)).fetchall()
            )
        return {source for (source,) in rows}

    def close(self) -> None:
        """Lets go of the file; to be called when no search is under way."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to one moment of the index."""
        with store.speaking(self.folder):
            try:
                base = self._idle.get_nowait()
            except queue.Empty:
                base = store.connect(self.folder)
            with store.transaction(base):
                yield base
            self._idle.put(base)

    def _asked(self, query: str) -> np.ndarray:
        """The question's vector, fp32 [D]; one thread at a time asks the model."""
        with self._lock:
            if self._embedding is None:
                self._embedding = load_same(self.facts["embedder"], self.facts["content"], self.folder, self._device)
            return self._embedding.vectors([clean(query)], "query")[0]

    def _near(self, base: sqlite3.Connection, asked: np.ndarray) -> _Near:
        """The question's cosine with every passage of this moment."""
        matrix = self._matrix
        if matrix.moment != _moment(base):
            matrix = self._matrix = _loaded(base, _moment(base))
        return _Near(matrix.numbers, matrix.vectors @ asked)


FROM = "FROM chunk JOIN document ON document.id = chunk.document"
FILTERS = {
    "kind": "kind = ?",
    "path": "(file GLOB ? OR substr(file, 1, length(?)) = ?)",
    "source": "(source GLOB ? OR substr(source, 1, length(?)) = ?)",
    "title": "instr(lower(title), lower(?)) > 0",
    "heading": "instr(lower(heading), lower(?)) > 0",
}


def find(path: Path) -> Path:
    """The folder of an index behind itself, a run's pointer file or the run. Raises DataProblem where there is none."""
    pointer = path / POINTER if (path / POINTER).is_file() else path
    folder = pointer.parent / pointer.read_text(errors="replace")[:4096].strip() if pointer.is_file() else path
    if not (folder / store.NAME).is_file():
        remedy = "make one with didact index, or with the stage index"
        raise DataProblem("there is no index here", where=str(path), remedy=remedy)
    return folder


def fused(lists: Sequence[Sequence[int]]) -> dict[int, float]:
    """Reciprocal-rank fusion: sum over the lists of 1 / (60 + rank), ranks from 1."""
    scores: dict[int, float] = {}
    for ranked in lists:
        for rank, number in enumerate(ranked, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (FUSION + rank)
    return scores


def reranked(query: str, found: Sequence[Passage], rerank: Rerank) -> list[Passage]:
    """The passages in the order of a model's scores."""
    scores = rerank(query, [passage.text for passage in found])
    anew = [replace(one, score=float(score)) for one, score in zip(found, scores, strict=True)]
    return sorted(anew, key=lambda passage: (-passage.score, passage.number))


def quoted(query: str) -> str:
    """Any text as a query of FTS5: its words, each in quotes, one of them enough; empty for a text without words."""
    words = dict.fromkeys(re.findall(r"\w+", query.lower()))
    return " OR ".join(f'"{word}"' for word in list(words)[:TERMS])


def _words(base: sqlite3.Connection, query: str, only: _Only, depth: int) -> dict[int, float]:
    """The passages that hold words of the question, by BM25."""
    match = quoted(query)
    if not match:
        return {}
    among = f"AND rowid IN (SELECT number {FROM} WHERE {only.condition})" if only.condition else ""
    rows = base.execute(
        f"SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? {among} ORDER BY bm25(words), rowid LIMIT ?",
        (match, *only.values, depth),
    )
    return dict(rows)


def _condition(where: Mapping[str, str]) -> _Only:
    values: list[str] = []
    for key, value in where.items():
        if key not in FILTERS:
            meant = nearest(key, FILTERS)
            remedy = f"did you mean {meant}?" if meant else f"there are {', '.join(FILTERS)}"
            raise UsageProblem(f"passages have no {brief(key, 40)!r} to choose by", remedy=remedy)
        if len(value) > PATTERN or value.count("*") > STARS:
            what = f"{key}={brief(value, 40)} is no pattern that can be looked for"
            raise UsageProblem(what, remedy=f"give {PATTERN} characters and {STARS} asterisks at most")
        values += [clean(value)] * FILTERS[key].count("?")
    return _Only(" AND ".join(FILTERS[key] for key in where), tuple(values))


def _moment(base: sqlite3.Connection) -> tuple[str, str]:
    known = store.facts(base)
    return known["id"], known["generation"]


def _loaded(base: sqlite3.Connection, moment: tuple[str, str]) -> _Matrix:
    rows = base.execute("SELECT number, data FROM vector ORDER BY number").fetchall()
    numbers = np.array([number for number, _ in rows], np.int64)
    data = np.frombuffer(b"".join(data for _, data in rows), "<f2").astype(np.float32)
    return _Matrix(moment, numbers, data.reshape(len(rows), -1 if rows else 0))


def _passage(base: sqlite3.Connection, number: int, score: float, similarity: float) -> Passage:
    row = base.execute(
        f"SELECT text, source, title, heading, start, stop, kind, file {FROM} WHERE number = ?", (number,)
    ).fetchone()
    text, source, title, heading, start, stop, kind, file = row
    return Passage(text, source, title, heading, start, stop, kind, score, number, file, similarity)
