"""How far people agree, beyond what chance would give, and how good each of them is: numpy only."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal", "interval", "ratio"]
Vote = tuple[Hashable, str, float]  # (what was judged, by whom, what was said)


def table(votes: Iterable[Vote]) -> tuple[np.ndarray, list[Hashable], list[str]]:
    """Votes as [annotators, units] with NaN where nothing was said; the units and the annotators, both in order."""
    given = {(unit, annotator): value for unit, annotator, value in votes}
    units = list(dict.fromkeys(unit for unit, _ in given))
    annotators = sorted({annotator for _, annotator in given})
    row, column = ({name: i for i, name in enumerate(names)} for names in (annotators, units))
    filled = np.full((len(annotators), len(units)), np.nan)
    for (unit, annotator), value in given.items():
        filled[row[annotator], column[unit]] = value
    return filled, units, annotators


def alpha(values: np.ndarray, level: Level) -> float:
    """Krippendorff's alpha of [annotators, units]: 1 is agreement, 0 what chance gives; NaN is a missing value.

    NaN where nothing can be said: no unit has two values, or there is only one value. Units with a single value do
    not count. Source: Krippendorff, Content Analysis (2004), chapter 11.
    """
    domain = np.unique(values[~np.isnan(values)])
    counts = (values[:, :, None] == domain).sum(0).astype(float)  # [units, values]
    counts = counts[counts.sum(1) > 1]
    pairable = counts.sum(1)
    within = (counts / (pairable[:, None] - 1)).T @ counts  # ordered pairs within a unit, each unit counted m times
    within -= np.diag((counts / (pairable[:, None] - 1)).sum(0))  # a value is not paired with itself
    marginal = within.sum(1)
    distance = _distance(domain, marginal, level)
    expected = marginal @ distance @ marginal
    if not expected:
        return float("nan")
    return float(1 - (marginal.sum() - 1) * (within * distance).sum() / expected)


def _distance(domain: np.ndarray, marginal: np.ndarray, level: Level) -> np.ndarray:
    """Squared differences [values, values]; the ordinal one counts how many values lie between."""
    one, other = domain[:, None], domain[None, :]
    if level == "nominal":
        return (one != other).astype(float)
    if level == "interval":
        return (one - other) ** 2
    if level == "ratio":
        sums = one + other
        return np.divide(one - other, sums, out=np.zeros_like(sums), where=sums != 0) ** 2
    middle = np.cumsum(marginal) - marginal / 2
    return (middle[:, None] - middle[None, :]) ** 2


# --- Dawid and Skene ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skills:
    """``confusion`` [annotators, true, said], ``prior`` [true], ``posterior`` [units, true]: what is probably right."""

    confusion: np.ndarray
    prior: np.ndarray
    posterior: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """How probably each annotator says what is right [annotators]."""
        return np.einsum("akk,k->a", self.confusion, self.prior)


def posterior(said: np.ndarray, prior: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """How probable each class is of each unit [units, true], given who said what: ``said`` [annotators, units], or -1.

    With two classes and annotators who are right with p, a vote weighs log(p / (1 - p)).
    """
    with np.errstate(divide="ignore"):
        score = np.tile(np.log(prior), (said.shape[1], 1))
        weight = np.log(confusion)
    for annotator, row in enumerate(said):
        given = row >= 0
        score[given] += weight[annotator][:, row[given]].T
    score = np.exp(score - score.max(1, keepdims=True))
    return score / score.sum(1, keepdims=True)


def dawid_skene(said: np.ndarray, classes: int, rounds: int = 200, tolerance: float = 1e-6) -> Skills:
    """Who is how good, learned from their votes alone by expectation maximisation, from the majority vote on.

    ``said`` [annotators, units] holds classes from 0, -1 where nothing was said. Everybody starts with two votes that
    were right and one that was wrong in each class, so that few votes prove neither mastery nor malice. Source: Dawid
    & Skene, Applied Statistics 28 (1979).
    """
    votes = np.stack([(said == k) for k in range(classes)], -1).astype(float)  # [annotators, units, said]
    belief = votes.sum(0) / votes.sum((0, 2))[:, None]
    trust = np.full((classes, classes), 1 / max(classes - 1, 1))
    np.fill_diagonal(trust, 2.0)
    for _ in range(rounds):
        prior = (belief.sum(0) + 1) / (belief.sum() + classes)
        confusion = np.einsum("uk,aus->aks", belief, votes) + trust
        confusion /= confusion.sum(2, keepdims=True)
        before, belief = belief, posterior(said, prior, confusion)
        if np.abs(belief - before).max(initial=0) < tolerance:
            break
    return Skills(confusion, prior, belief)
