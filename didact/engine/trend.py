"""Where a series of numbers is going, and what two of them have in common besides a third."""

import math
from collections.abc import Sequence

import numpy as np


def trend(values: Sequence[float]) -> float:
    """The slope of the straight line through equally spaced values, in standard errors; 0 for less than 3 of them."""
    count = len(values)
    if count < 3:
        return 0.0
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(count) - (count - 1) / 2
    slope = float(x @ (y - y.mean()) / (x @ x))
    rest = y - y.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / (count - 2) / float(x @ x))
    if error <= 1e-12 * max(abs(slope), 1e-300):
        return math.copysign(math.inf, slope) if slope else 0.0
    return slope / error


def apart(early: Sequence[float], late: Sequence[float]) -> float:
    """By how much the mean of ``late`` exceeds that of ``early``, in standard errors (Welch's t)."""
    one, other = (np.asarray(part, dtype=np.float64) for part in (early, late))
    difference = float(other.mean() - one.mean())
    error = math.sqrt(float(one.var(ddof=1)) / len(one) + float(other.var(ddof=1)) / len(other))
    if error <= 1e-12 * max(abs(difference), 1e-300):
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / error


def partial(x: Sequence[float], y: Sequence[float], given: Sequence[Sequence[float]] = ()) -> float:
    """The correlation of x and y once what ``given`` explains of each (linearly) is taken out; NaN where none is left.

    Without ``given`` it is Pearson's correlation.
    """
    known = np.stack([np.ones(len(x)), *(np.asarray(one, dtype=np.float64) for one in given)], 1)
    left = []
    for values in (np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)):
        rest = values - known @ np.linalg.lstsq(known, values, rcond=None)[0]
        size = float(rest @ rest)
        if size <= 1e-18 * max(float(values @ values), 1e-300):
            return math.nan
        left.append(rest / math.sqrt(size))
    return float(np.clip(left[0] @ left[1], -1, 1))
