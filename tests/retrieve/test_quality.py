"""Recall and nDCG, by hand."""

import math

import pytest

from didact.retrieve.quality import quality


@pytest.mark.parametrize(
    ("found", "wanted", "recall", "ndcg"),
    [
        (["a", "b"], {"a"}, 1, 1),
        (["b", "a"], {"a"}, 1, 1 / math.log2(3)),
        (["b", "b", "b", "a"], {"a"}, 1, 1 / math.log2(3)),  # a source counts once
        (["b"], {"a"}, 0, 0),
        ([], {"a"}, 0, 0),
        (["a", "x", "b"], {"a", "b"}, 1, (1 + 1 / 2) / (1 + 1 / math.log2(3))),
        (["x", "y", "z", "a"], {"a"}, 0, 0),  # beyond k
        (["a", "b", "c"], {"a", "b", "c", "d"}, 1, 1),  # more are wanted than k
    ],
)
def test_by_hand(found, wanted, recall, ndcg):
    one = quality([found], [wanted], 3)
    assert (one.recall, one.ndcg) == pytest.approx((recall, ndcg))


def test_questions_count_equally():
    both = quality([["a"], ["x"]], [{"a"}, {"b"}])
    assert (both.recall, both.ndcg) == (0.5, 0.5)
