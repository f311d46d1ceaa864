"""Rows of different lengths as the columns of one batch; what a column is of goes by its name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from didact.batch import Batch

OF_TOKENS: dict[str, float | bool] = {
    "token": 0,
    "doc": -1,
    "position": 0,
    "trained": False,
    "answer": -1,
    "order": 0,
    "teacher_token": 0,
    "teacher_logprob": 0,
    "reference": 0,
    "behaviour": 0,
    "advantage": 0,
    "value_old": 0,
    "return": 0,
}
"""Columns of tokens, [T, ...] in a row, and what fills a row up to the longest."""

OF_ANSWERS: dict[str, float | bool] = {"of": -1, "score": math.nan, "who": 0, "trust": 0.0}
"""Columns of answers, [A] in a row, of which there may be more in one row than in another."""


def stacked(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows of numpy columns as a batch: those of tokens and of answers are filled up, all others are of one size."""
    return Batch({name: torch.from_numpy(np.stack(_filled(name, rows))) for name in rows[0]})


def _filled(name: str, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    fill = (OF_TOKENS | OF_ANSWERS).get(name)
    if fill is None:
        return [row[name] for row in rows]
    width = max(len(row[name]) for row in rows)
    return [_padded(row[name], width, fill) for row in rows]


def _padded(column: np.ndarray, width: int, fill: float | bool) -> np.ndarray:
    """A row's column [T, ...] filled up to ``width``."""
    return np.pad(column, [(0, width - len(column)), *[(0, 0)] * (column.ndim - 1)], constant_values=fill)
