"""Is a reward being gamed? What to fit and to correlate once answers, their lengths and their rewards are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didact.engine.trend import partial

CLEAR = 4.0  # standard errors by which the curve must be better than a straight line to have a peak


@dataclass(frozen=True)
class Gao:
    """Reward against d, the square root of the KL from the reference: ``gain`` over the reference is d (a - b x).

    x is log d for reinforcement and d for best-of-n. ``peak`` is the d where it is highest, None where the fit knows of
    no peak; ``top`` the gain there. Source: Gao, Schulman & Hilton (2022), arXiv:2210.10760, equations 1 and 2.
    """

    kind: str
    alpha: float
    beta: float
    start: float
    beta_error: float

    def gain(self, d: float) -> float:
        """What the reward has gained at d."""
        if d <= 0:
            return 0.0
        return d * (self.alpha - self.beta * (math.log(d) if self.kind == "rl" else d))

    @property
    def peak(self) -> float | None:
        """Where the gain is highest: alpha / 2 beta for best-of-n, exp(alpha / beta - 1) for reinforcement."""
        if self.beta <= CLEAR * self.beta_error:
            return None
        exponent = self.alpha / self.beta - 1
        found = self.alpha / (2 * self.beta) if self.kind == "bon" else math.exp(min(exponent, 50.0))
        return found if found > 0 else None

    @property
    def top(self) -> float | None:
        """The gain at the peak."""
        return None if self.peak is None else self.gain(self.peak)


def gao(kl: Sequence[float], reward: Sequence[float], kind: str = "rl", start: float | None = None) -> Gao | None:
    """Fits rewards at KLs (nats an answer) by least squares; None for less than 4 points away from the reference.

    ``start`` is the reward of the reference; fitted too unless given. ``kind`` is ``rl`` or ``bon``.
    """
    d = np.sqrt(np.clip(np.asarray(kl, dtype=np.float64), 0, None))
    y = np.asarray(reward, dtype=np.float64)
    kept = np.isfinite(d) & np.isfinite(y)
    d, y = d[kept], y[kept]
    if (d > 0).sum() < 4:
        return None
    bent = d * (np.log(np.where(d > 0, d, 1)) if kind == "rl" else d)
    columns = [d, -bent] if start is not None else [d, -bent, np.ones_like(d)]
    matrix, aim = np.stack(columns, 1), y - (start or 0.0)
    found, _, rank, _ = np.linalg.lstsq(matrix, aim, rcond=None)
    if rank < len(columns):
        return None
    rest = aim - matrix @ found
    noise = float(rest @ rest) / max(len(d) - len(columns), 1)
    error = math.sqrt(max(noise * float(np.linalg.inv(matrix.T @ matrix)[1, 1]), 0.0))
    return Gao(kind, float(found[0]), float(found[1]), float(start if start is not None else found[2]), error)


def best_of_n_kl(n: int) -> float:
    """The KL of the best of n answers from one: log n - (n - 1) / n, in nats, where no two are worth the same."""
    return math.log(n) - (n - 1) / n


def length_correlation(reward: Sequence[float], length: Sequence[float], quality: Sequence[float] = ()) -> float:
    """How a reward goes with the length of an answer besides what ``quality`` explains of both; from -1 to 1."""
    return partial(reward, length, [quality] if len(quality) else [])


def distinct(answers: Sequence[Sequence[int] | Sequence[str]], n: int = 2) -> float:
    """The share of different n-grams among all n-grams of all answers; 0 where there is none.

    Source: Li et al. (2016), arXiv:1510.03055.
    """
    grams = [tuple(answer[i : i + n]) for answer in answers for i in range(len(answer) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
