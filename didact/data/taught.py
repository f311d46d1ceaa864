"""What another model makes of each trained token of a corpus: columns beside its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from didact.errors import DataProblem

LIKELIEST = {"teacher_token": "token.npy", "teacher_logprob": "logprob.npy"}  # of a teacher's tokens, by column
REFERENCE = {"reference": "reference.npy"}  # of a reference, which is asked of the tokens that are there


@dataclass(frozen=True)
class Taught:
    """``made`` by column, each [trained tokens, ...]; ``place`` int64 [N], a trained token's row in them.

    The first token of a document has nothing before it to be predicted from; its row says nothing.
    """

    made: Mapping[str, np.ndarray]
    place: np.ndarray

    def columns(self, trained: np.ndarray, where: slice | np.ndarray) -> dict[str, np.ndarray]:
        """The columns [T, ...] of a stretch of the corpus, or of tokens here and there, 0 where nothing is trained.

        ``trained`` bool [T] is the corpus's own.
        """
        rows, found = self.place[where][trained], {}
        for name, made in self.made.items():
            wide = np.int64 if np.issubdtype(made.dtype, np.integer) else np.float32
            found[name] = np.zeros((len(trained), *made.shape[1:]), wide)
            found[name][trained] = made[rows]
        return found


def places(trained: np.ndarray) -> np.ndarray:
    """How many trained tokens stand before each token, int64 [N]."""
    return np.cumsum(trained, dtype=np.int64) - trained


def open_taught(folder: Path, trained: np.ndarray, files: Mapping[str, str]) -> Taught:
    """Maps the columns into memory, each from its file. Raises DataProblem where they are not whole."""
    try:
        made = {name: np.load(folder / file, mmap_mode="r") for name, file in files.items()}
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder) from error
    if any(len(column) != trained.sum() for column in made.values()):
        raise _damaged(folder)
    return Taught(made, places(trained))


def _damaged(folder: Path) -> DataProblem:
    return DataProblem(
        "what another model made of this data is damaged", where=str(folder), remedy="delete this folder"
    )
