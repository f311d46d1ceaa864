"""Which of two models wins, and whether it would if its answers were as long as the other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didact.feedback.rates import Z, wilson

DRAWS = 1000
RIDGE = 1.0  # keeps the coefficient of length finite where the longer one always wins


@dataclass(frozen=True)
class Wins:
    """A win rate with Wilson's 95% interval, and the one at equal lengths with one of its own.

    ``longer`` is how far an answer longer by a standard deviation moves the log-odds of winning.
    """

    rate: float
    low: float
    high: float
    controlled: float
    controlled_low: float
    controlled_high: float
    longer: float
    ties: int
    count: int


def win_rate(wins: Sequence[float], lengths: Sequence[tuple[int, int]], seed: int = 0) -> Wins:
    """``wins`` holds 1, 0.5 (a tie) or 0 for each prompt, ``lengths`` those of our answer and of the other's.

    The controlled rate is what a logistic regression on tanh(difference of lengths / its deviation) says of equal
    lengths; half a win and half a loss are added, so that it is never certain. Its interval is the wider of a
    bootstrapped one and that of the regression's information: prompts that were all won, drawn anew, all are again.
    Source: Dubois et al. (2024), arXiv:2404.04475, without the difficulty of prompts.
    """
    y = np.asarray(wins, dtype=np.float64)
    difference = np.asarray([ours - theirs for ours, theirs in lengths], dtype=np.float64)
    deviation = difference.std()
    x = np.tanh(difference / deviation) if deviation > 0 else np.zeros_like(difference)
    draws = np.random.default_rng(seed).integers(0, len(y), (DRAWS, len(y)))
    weights = np.stack([np.ones(len(y)), *(np.bincount(draw, minlength=len(y)) for draw in draws)])  # the data first
    level, slope, error = _logistic(x, y, weights)
    controlled = 1 / (1 + np.exp(-level))
    drawn = np.quantile(controlled[1:], [0.025, 0.975])
    below, above = 1 / (1 + np.exp(-(level[0] + np.array([-Z, Z]) * error)))
    below, above = min(below, drawn[0]), max(above, drawn[1])
    rate = float(y.mean())
    ties = int((y == 0.5).sum())
    return Wins(
        rate, *wilson(rate, len(y)), float(controlled[0]), float(below), float(above), float(slope[0]), ties, len(y)
    )


def _logistic(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Intercepts and slopes of y on x by Newton's method, one of each for every row of ``weights``.

    And the standard error of the first intercept, from the curvature.
    """
    error = 0.0
    level, slope = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(level[:, None] + slope[:, None] * x, -30, 30)))
        middle = 1 / (1 + np.exp(-np.clip(level, -30, 30)))
        gradient = (weights * (y - p)).sum(1) + 0.5 - middle  # half a win and half a loss, of equal lengths
        tilt = (weights * (y - p) * x).sum(1) - RIDGE * slope
        curve = weights * p * (1 - p)
        a, b, c = curve.sum(1) + middle * (1 - middle), (curve * x).sum(1), (curve * x * x).sum(1) + RIDGE
        size = a * c - b * b
        move, turn = (c * gradient - b * tilt) / size, (a * tilt - b * gradient) / size
        error = float(np.sqrt(c[0] / size[0]))
        level, slope = level + np.clip(move, -2, 2), slope + np.clip(turn, -2, 2)
        if max(np.abs(move).max(), np.abs(turn).max()) < 1e-10:
            break
    return level, slope, error
