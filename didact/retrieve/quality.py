"""How good a search is: questions whose sources are known, and where in what was found those stand."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quality:
    """Means over the questions, each from 0 to 1."""

    recall: float
    ndcg: float


def quality(found: Sequence[Sequence[str]], wanted: Sequence[Collection[str]], k: int = 10) -> Quality:
    """Recall and nDCG at ``k`` of ranked sources, one list a question; a source counts where it stands first.

    Recall is the share of a question's sources among the first ``k``, at most ``k`` of them being wanted. nDCG is the
    sum of 1 / log2(1 + rank) over the right ones, over what the best order would have (Järvelin and Kekäläinen 2002).
    """
    recalls, gains = list[float](), list[float]()
    for ranked, right in zip(found, wanted, strict=True):
        first = list(dict.fromkeys(ranked))[:k]
        ranks = [rank for rank, source in enumerate(first, 1) if source in right]
        most = min(k, len(set(right)))
        recalls.append(len(ranks) / most)
        gains.append(_gain(ranks) / _gain(range(1, most + 1)))
    return Quality(sum(recalls) / len(recalls), sum(gains) / len(gains))


def _gain(ranks: Collection[int] | range) -> float:
    return sum(1 / math.log2(1 + rank) for rank in ranks)
