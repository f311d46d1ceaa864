"""What a teacher finds likeliest in the place of each trained token of a corpus: columns beside its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from didact.errors import DataProblem


@dataclass(frozen=True)
class Taught:
    """``token`` int32 and ``logprob`` float32 [trained tokens, k]; ``place`` int64 [N], a trained token's row in them.

    The first token of a document has nothing before it to be predicted from; its row says nothing.
    """

    token: np.ndarray
    logprob: np.ndarray
    place: np.ndarray

    def columns(self, trained: np.ndarray, where: slice) -> dict[str, np.ndarray]:
        """``teacher_token`` and ``teacher_logprob`` [length, k] of a stretch of the corpus, 0 where nothing is trained.

        ``trained`` bool [length] is the corpus's own.
        """
        rows = self.place[where][trained]
        shape = (len(trained), self.token.shape[1])
        token, logprob = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        token[trained], logprob[trained] = self.token[rows], self.logprob[rows]
        return {"teacher_token": token, "teacher_logprob": logprob}


def places(trained: np.ndarray) -> np.ndarray:
    """How many trained tokens stand before each token, int64 [N]."""
    return np.cumsum(trained, dtype=np.int64) - trained


def open_taught(folder: Path, trained: np.ndarray) -> Taught:
    """Maps the columns into memory. Raises DataProblem where they are not whole."""
    try:
        token, logprob = (np.load(folder / name, mmap_mode="r") for name in ("token.npy", "logprob.npy"))
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder) from error
    if not len(token) == len(logprob) == trained.sum():
        raise _damaged(folder)
    return Taught(token, logprob, places(trained))


def _damaged(folder: Path) -> DataProblem:
    return DataProblem("these columns of a teacher are damaged", where=str(folder), remedy="delete this folder")
