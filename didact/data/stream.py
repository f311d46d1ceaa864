"""Rows of packed tokens in an order that is a pure function of (seed, epoch, row).

The cursor is one integer, so a stream resumes exactly, and any number of processes see the same global batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from didact.batch import Batch
from didact.data.answers import columns
from didact.data.pack import best_fit
from didact.data.pieces import Pieces
from didact.data.stack import stacked
from didact.errors import DataProblem

EPOCH = 1 << 32  # a cursor is epoch * EPOCH + row


class Stream(Protocol):
    """What a task reads from."""

    def start(self, cursor: int) -> Iterator[tuple[Batch, int]]:
        """Yields (this process's share of the next global batch, the cursor after it), without end."""
        ...

    def like(self) -> Batch:
        """A batch of such columns as it yields, by which to try how much memory one takes."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One pass in packed rows: row r holds ``piece[bound[r]:bound[r + 1]]``, numbers into the joined pieces."""

    piece: np.ndarray
    bound: np.ndarray

    def __len__(self) -> int:
        return len(self.bound) - 1


class TokenStream:
    """Packed rows of tokens; of examples of several texts, a row each, whose texts are its documents.

    A prompt with answers is a document, in which the prompt stands once (``share``), or as many documents as it has
    answers. ``batch_size`` counts rows of the global batch; process ``rank`` of ``world`` gets every ``world``-th.
    """

    def __init__(
        self,
        parts: Sequence[Pieces],
        context: int,
        batch_size: int,
        seed: int,
        *,
        pack: bool = True,
        shuffle: bool = True,
        share: bool = True,
        rank: int = 0,
        world: int = 1,
    ):
        self.parts, self.context, self.batch_size, self.seed = list(parts), context, batch_size, seed
        self.several = any(part.value is not None for part in parts)
        self.judged, self.share = any(part.example is not None for part in parts), share
        self.pack, self.shuffle, self.rank, self.world = pack and not self.several, shuffle, rank, world
        self.length = np.concatenate([part.length for part in parts])
        self.first = np.cumsum([0, *(len(part.length) for part in parts)])
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def start(self, cursor: int) -> Iterator[tuple[Batch, int]]:
        """See ``Stream``."""
        while True:
            rows, cursor = self._next_rows(cursor)
            yield self._batch(rows[self.rank :: self.world]), cursor

    def like(self) -> Batch:
        """The first batch."""
        return next(self.start(0))[0]

    def tokens_per_epoch(self) -> int:
        """Tokens that one pass reads."""
        return int(self.length[self.epoch(0).piece].sum())

    def _next_rows(self, cursor: int) -> tuple[list[int], int]:
        rows = []
        while len(rows) < self.batch_size:
            epoch, row = divmod(cursor, EPOCH)
            if row < len(self.epoch(epoch)):
                rows.append(cursor)
                cursor += 1
            else:
                cursor = (epoch + 1) * EPOCH
        return rows, cursor

    def _epoch(self, epoch: int) -> Epoch:
        rng = np.random.default_rng([self.seed, epoch])
        chosen = [
            self.first[i] + _passes(len(part.length), part.corpus.weight, rng) for i, part in enumerate(self.parts)
        ]
        piece = np.concatenate(chosen)
        if self.shuffle:
            piece = rng.permutation(piece)
        room = max(self.context, int(self.length.max()))  # a prompt's answers may be more together than the context
        row = best_fit(self.length[piece], room) if self.pack else np.arange(len(piece))
        if self.shuffle:
            row = rng.permutation(row.max() + 1)[row]
        piece = piece[np.argsort(row, kind="stable")]
        return Epoch(piece, np.concatenate([[0], np.cumsum(np.bincount(row))]))

    def _batch(self, rows: list[int]) -> Batch:
        return stacked([self._row(number) | {"row": np.int64(number)} for number in rows])

    def _row(self, cursor: int) -> dict[str, np.ndarray]:
        number, row = divmod(cursor, EPOCH)
        epoch = self.epoch(number)
        pieces = epoch.piece[epoch.bound[row] : epoch.bound[row + 1]]
        if self.several:
            return self._texts(int(pieces[0]))
        if self.judged:
            return _joined([self._answers(int(number)) for number in pieces])
        token, trained = zip(*(self._piece(piece) for piece in pieces), strict=True)
        lengths = self.length[pieces]
        return self._taught(pieces) | {
            "token": np.concatenate(token).astype(np.int64),
            "trained": np.concatenate(trained),
            "doc": np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
            "position": np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]),
        }

    def _texts(self, number: int) -> dict[str, np.ndarray]:
        """One example of several texts; ``value`` is its number."""
        pieces, index, where = self._find(number)
        if pieces.corpus.text is None or pieces.value is None:
            raise DataProblem("this task mixes examples of one text with examples of several", remedy="use two tasks")
        text = np.asarray(pieces.corpus.text[where], np.int32)
        begins = np.flatnonzero(np.diff(text, prepend=-1))
        return {
            "token": np.asarray(pieces.corpus.token[where], np.int64),
            "trained": np.asarray(pieces.corpus.trained[where]),
            "doc": text,
            "position": np.arange(len(text)) - np.repeat(begins, np.diff(begins, append=len(text))),
            "value": pieces.value[index],
        }

    def _answers(self, number: int) -> dict[str, np.ndarray]:
        """One prompt with its answers."""
        pieces, index, where = self._find(number)
        if pieces.corpus.judged is None or pieces.example is None:
            raise DataProblem("this task mixes judged answers with other examples", remedy="use two tasks")
        place, made = columns(pieces.corpus.judged, int(pieces.example[index]), where, self.share)
        token = np.asarray(pieces.corpus.token[place], np.int64)
        trained, taught = np.asarray(pieces.corpus.trained[place]), pieces.corpus.taught
        asked = {} if taught is None else taught.columns(trained, place)
        return made | asked | {"token": token, "trained": trained}

    def _taught(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of a row's teacher, if it has one."""
        found = []
        for number in numbers:
            pieces, _, where = self._find(number)
            if pieces.corpus.taught is not None:
                found.append(pieces.corpus.taught.columns(np.asarray(pieces.corpus.trained[where]), where))
        return {name: np.concatenate([one[name] for one in found]) for name in (found[0] if found else ())}

    def _piece(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        pieces, _, where = self._find(number)
        return pieces.corpus.token[where], pieces.corpus.trained[where]

    def _find(self, number: int) -> tuple[Pieces, int, slice]:
        part = int(np.searchsorted(self.first, number, side="right")) - 1
        pieces, index = self.parts[part], int(number - self.first[part])
        return pieces, index, slice(pieces.start[index], pieces.start[index] + pieces.length[index])


def _joined(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Examples of one row: their documents and answers are numbered on."""
    doc = np.cumsum([0, *(one["doc"].max() + 1 for one in examples)])
    answer = np.cumsum([0, *(len(one["of"]) for one in examples)])
    numbered = [
        one
        | {
            "doc": one["doc"] + np.int32(doc[i]),
            "answer": np.where(one["answer"] < 0, -1, one["answer"] + answer[i]),
            "of": one["of"] + i,
        }
        for i, one in enumerate(examples)
    ]
    return {name: np.concatenate([one[name] for one in numbered]) for name in numbered[0]}


def _passes(count: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers below ``count``, each ``floor(weight)`` times, and a random share of them once more."""
    whole, rest = divmod(weight, 1)
    again = np.sort(rng.permutation(count)[: round(rest * count)])
    return np.concatenate([np.tile(np.arange(count), int(whole)), again])
