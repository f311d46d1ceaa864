"""What may sway people besides the answer: rates over examples, ties, and the same text twice."""

import pytest

from didact.data.confounds import confounds
from didact.data.example import Answers
from didact.feedback.rates import wilson


def test_pairs_of_one_ranking_are_not_independent():
    """Ten prompts of four answers each, the longest always best: ten rounds, not sixty."""
    given = [Answers(str(n), f"p{n}", ("dddd", "ccc", "a", "bb"), (4.0, 3.0, 1.0, 2.0)) for n in range(10)]
    facts = confounds(given).facts()
    assert (facts["pairs"], facts["ties"]) == (60, 0)
    low, high = wilson(1, 10)
    assert facts["longer"] == {"rate": 1.0, "low": low, "high": high, "rounds": 10}
    assert facts["first"]["rate"] == pytest.approx(5 / 6)


def test_an_order_of_worth_says_nothing_of_place():
    assert "first" not in confounds([Answers("a", "p", ("a", "b"), (1.0, 0.0))]).facts()


def test_one_text_twice_is_said_and_is_no_pair():
    given = [Answers("a", "p", ("one", "one"), (1.0, 0.0)), Answers("b", "q", ("one", "two"), (1.0, 0.0))]
    found = confounds(given)
    assert (found.facts()["pairs"], found.facts()["same"]) == (1, 1)
    assert "1 more are of one text twice and teach nothing" in found.lines()[0]
    alone = confounds(given[:1])
    assert alone.pairs == 0
    assert alone.lines()
