"""Searches an index: by words, by vectors, or by both."""

from __future__ import annotations

import hashlib
import math
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from didact.data.words import brief, nearest
from didact.errors import DataProblem, UsageProblem
from didact.retrieve.embedding import Embedding, load_same
from didact.retrieve.extract import clean
from didact.retrieve.store import FROM, Base, Store
from didact.retrieve.where import find

Mode = Literal["hybrid", "dense", "words"]
Rerank = Callable[[str, Sequence[str]], Sequence[float]]
"""A question and passages to a number each, the higher the better."""

DEPTH = 100  # passages each way of searching hands to fusion
FUSION = 60  # k of reciprocal-rank fusion (Cormack et al. 2009)
RERANKED = 32  # passages that a model reads again
TERMS = 64  # different words of a question that are looked up
PATTERN, STARS = 300, 8  # characters and asterisks of a filter: matching many takes for ever
FILTERS = ("kind", "path", "source", "title", "heading")


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

    def best(self, base: Base, only: _Only, depth: int) -> dict[int, float]:
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

    def __init__(self, store: Store, embedding: Embedding | None, device: str):
        self.store, self._device = store, device
        self._embedding, self._lock = embedding, threading.Lock()
        self._idle: queue.LifoQueue[Base] = queue.LifoQueue()
        with self._reading() as base:
            self.facts: dict[str, Any] = {**base.facts(), **base.counts()}
            self._matrix = _loaded(base, _moment(base))

    @classmethod
    def open(cls, where: str | Path, *, embedding: Embedding | None = None, device: str = "auto") -> Index:
        """The index in a folder or a server, or that ``runs/NAME/index`` or ``runs/NAME`` points at, checked whole.

        ``embedding`` makes the vectors of questions; by default the model that made those of the passages, loaded with
        the first question. Raises DataProblem for an index that is missing, unfinished or damaged.
        """
        store = find(where)
        with store.locked(building=False):
            if not store.finished():
                what = "the index is unfinished, its build was interrupted"
                raise DataProblem(what, where=store.name, remedy="build it again; what is finished is kept")
            store.verify()
            with store.speaking():
                return cls(store, embedding, device)

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
            raise UsageProblem("the index has no vectors to search", where=self.store.name, remedy=remedy)
        if not query.strip():
            return []
        mode = mode if self.dense else "words"
        _known(where or {})
        asked = None if mode == "words" else self._asked(query)
        depth = max(DEPTH, 2 * k)
        with self._reading() as base:
            only = _condition(base, where or {})
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
            if not rows:
                rows = base.execute(f"SELECT source {FROM} WHERE {base.FILTERS['text']}", (text,)).fetchall()
        return {source for (source,) in rows}

    def close(self) -> None:
        """Lets go of it; to be called when no search is under way."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    @contextmanager
    def _reading(self) -> Iterator[Base]:
        """A connection to one moment of the index."""
        with self.store.speaking():
            try:
                base = self._idle.get_nowait()
            except queue.Empty:
                base = self.store.connect()
            with base.transaction():
                yield base
            self._idle.put(base)

    def _asked(self, query: str) -> np.ndarray:
        """The question's vector, fp32 [D]; one thread at a time asks the model."""
        with self._lock:
            if self._embedding is None:
                self._embedding = load_same(self.facts["embedder"], self.facts["content"], self.store, self._device)
            return self._embedding.vectors([clean(query)], "query")[0]

    def _near(self, base: Base, asked: np.ndarray) -> _Near:
        """The question's cosine with every passage of this moment."""
        matrix = self._matrix
        if matrix.moment != _moment(base):
            matrix = self._matrix = _loaded(base, _moment(base))
        return _Near(matrix.numbers, matrix.vectors @ asked)


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


def terms(query: str) -> list[str]:
    """The words of a question that are looked up."""
    return list(dict.fromkeys(re.findall(r"\w+", query.lower())))[:TERMS]


def _words(base: Base, query: str, only: _Only, depth: int) -> dict[int, float]:
    """The passages that hold words of the question, by BM25."""
    asked = terms(query)
    return base.words(asked, only.condition, only.values, depth) if asked else {}


def _known(where: Mapping[str, str]) -> None:
    """Raises UsageProblem for what nothing can be chosen by."""
    for key, value in where.items():
        if key not in FILTERS:
            meant = nearest(key, FILTERS)
            remedy = f"did you mean {meant}?" if meant else f"there are {', '.join(FILTERS)}"
            raise UsageProblem(f"passages have no {brief(key, 40)!r} to choose by", remedy=remedy)
        if len(value) > PATTERN or value.count("*") > STARS:
            what = f"{key}={brief(value, 40)} is no pattern that can be looked for"
            raise UsageProblem(what, remedy=f"give {PATTERN} characters and {STARS} asterisks at most")


def _condition(base: Base, where: Mapping[str, str]) -> _Only:
    values: list[str] = []
    for key, value in where.items():
        said = clean(value)
        values += [base.pattern(said), said, said] if key in ("path", "source") else [said]
    return _Only(" AND ".join(base.FILTERS[key] for key in where), tuple(values))


def _moment(base: Base) -> tuple[str, str]:
    known = base.facts()
    return known["id"], known["generation"]


def _loaded(base: Base, moment: tuple[str, str]) -> _Matrix:
    rows = base.found_vectors()
    numbers = np.array([number for number, _ in rows], np.int64)
    data = np.frombuffer(b"".join(data for _, data in rows), "<f2").astype(np.float32)
    return _Matrix(moment, numbers, data.reshape(len(rows), -1 if rows else 0))


def _passage(base: Base, number: int, score: float, similarity: float) -> Passage:
    row = base.execute(
        f"SELECT text, source, title, heading, start, stop, kind, file {FROM} WHERE number = ?", (number,)
    ).fetchone()
    text, source, title, heading, start, stop, kind, file = row
    return Passage(text, source, title, heading, start, stop, kind, score, number, file, similarity)
