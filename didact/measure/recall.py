"""Retrieval: does a text's vector lie next to the vector of what belongs to it?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from didact.data.example import Example, Texts
from didact.errors import DataProblem
from didact.measure.base import Measure, Subject
from didact.model.embed import Embedder

ROWS = 1024  # anchors whose scores are made at once


@dataclass(frozen=True)
class Recall(Measure):
    """The share of anchors whose positive is among the ``k`` nearest of all positives of the examples.

    ``pool`` and ``bidirectional`` read a model that does not say how it makes a vector. ``dimensions`` keeps so many
    numbers of each vector.
    """

    unit = "share"
    better = "higher"

    k: int = 10
    dimensions: int | None = None
    pool: str = "mean"
    bidirectional: bool = False

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """Recall at ``k``."""
        return (self.ranks(subject, examples) <= self.k).double().mean().item()

    def ranks(self, subject: Subject, examples: Sequence[Example]) -> Tensor:
        """The rank of each anchor's nearest positive among all, from 1, [N]; equals before it count as nearer."""
        anchors, positives = paired(examples)
        corpus = list(dict.fromkeys(positives))
        told = {"pool": self.pool, "bidirectional": self.bidirectional}
        embed = Embedder.of(subject.model, subject.renderer, told)
        asked, known = embed(anchors, "query", self.dimensions), embed(corpus, "document", self.dimensions)
        right = belongings(anchors, positives, corpus)
        ranks = [rank(part @ known.T, mine) for part, mine in zip(asked.split(ROWS), right.split(ROWS), strict=True)]
        return torch.cat(ranks)


@dataclass(frozen=True)
class Mrr(Recall):
    """The mean of 1 / rank of each anchor's nearest positive among all positives."""

    unit = "1 / rank"

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """The mean reciprocal rank."""
        return (1 / self.ranks(subject, examples).double()).mean().item()


def paired(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """Anchors and positives. Raises DataProblem for other examples."""
    for one in examples:
        if not (isinstance(one, Texts) and one.roles[:2] == ("query", "document")):
            raise DataProblem("this is no anchor with its positive", where=one.where, remedy="give anchor and positive")
    pairs = [one.texts[:2] for one in examples if isinstance(one, Texts)]
    return [anchor for anchor, _ in pairs], [positive for _, positive in pairs]


def belongings(anchors: Sequence[str], positives: Sequence[str], corpus: Sequence[str]) -> Tensor:
    """Which texts of the corpus belong to each anchor, wherever it stands, bool [anchors, corpus]."""
    number = {text: i for i, text in enumerate(corpus)}
    known: dict[str, list[int]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        known.setdefault(anchor, []).append(number[positive])
    right = torch.zeros(len(anchors), len(corpus), dtype=torch.bool)
    for row, anchor in enumerate(anchors):
        right[row, known[anchor]] = True
    return right


def rank(score: Tensor, right: Tensor) -> Tensor:
    """From 1, [N], out of scores and what is right, both [N, corpus]."""
    best = score.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + ((score >= best) & ~right).sum(1)
