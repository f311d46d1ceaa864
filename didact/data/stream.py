"""Rows of packed tokens in an order that is a pure function of (seed, epoch, row).

The cursor is one integer, so a stream resumes exactly, and any number of processes see the same global batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from didact.batch import Batch
from didact.data.pack import best_fit
from didact.data.pieces import Pieces

EPOCH = 1 << 32  # a cursor is epoch * EPOCH + row


class Stream(Protocol):
    """What a task reads from."""

    def start(self, cursor: int) -> Iterator[tuple[Batch, int]]:
        """Yields (this process's share of the next global batch, the cursor after it), without end."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One pass in packed rows: row r holds ``piece[bound[r]:bound[r + 1]]``, numbers into the joined pieces."""

    piece: np.ndarray
    bound: np.ndarray

    def __len__(self) -> int:
        return len(self.bound) - 1


class TokenStream:
    """Packed rows of tokens.

    ``batch_size`` counts rows of the global batch; process ``rank`` of ``world`` gets every ``world``-th of them.
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
        rank: int = 0,
        world: int = 1,
    ):
        self.parts, self.context, self.batch_size, self.seed = list(parts), context, batch_size, seed
        self.pack, self.shuffle, self.rank, self.world = pack, shuffle, rank, world
        self.length = np.concatenate([part.length for part in parts])
        self.first = np.cumsum([0, *(len(part.length) for part in parts)])
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def start(self, cursor: int) -> Iterator[tuple[Batch, int]]:
        """See ``Stream``."""
        while True:
            rows, cursor = self._next_rows(cursor)
            yield self._batch(rows[self.rank :: self.world]), cursor

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
        row = best_fit(self.length[piece], self.context) if self.pack else np.arange(len(piece))
        if self.shuffle:
            row = rng.permutation(row.max() + 1)[row]
        piece = piece[np.argsort(row, kind="stable")]
        return Epoch(piece, np.concatenate([[0], np.cumsum(np.bincount(row))]))

    def _batch(self, rows: list[int]) -> Batch:
        filled = [self._row(number) for number in rows]
        width = max(len(row["token"]) for row in filled)
        empty = {"token": 0, "doc": -1, "position": 0, "trained": False}
        columns = {
            name: torch.from_numpy(
                np.stack([np.pad(row[name], (0, width - len(row[name])), constant_values=fill) for row in filled])
            )
            for name, fill in empty.items()
        }  # each [B, T]
        return Batch({**columns, "row": torch.tensor(rows)})

    def _row(self, cursor: int) -> dict[str, np.ndarray]:
        number, row = divmod(cursor, EPOCH)
        epoch = self.epoch(number)
        pieces = epoch.piece[epoch.bound[row] : epoch.bound[row + 1]]
        token, trained = zip(*(self._piece(piece) for piece in pieces), strict=True)
        lengths = self.length[pieces]
        return {
            "token": np.concatenate(token).astype(np.int64),
            "trained": np.concatenate(trained),
            "doc": np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
            "position": np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]),
        }

    def _piece(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        part = int(np.searchsorted(self.first, number, side="right")) - 1
        pieces, index = self.parts[part], number - self.first[part]
        where = slice(pieces.start[index], pieces.start[index] + pieces.length[index])
        return pieces.corpus.token[where], pieces.corpus.trained[where]


def _passes(count: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers below ``count``, each ``floor(weight)`` times, and a random share of them once more."""
    whole, rest = divmod(weight, 1)
    again = np.sort(rng.permutation(count)[: round(rest * count)])
    return np.concatenate([np.tile(np.arange(count), int(whole)), again])
