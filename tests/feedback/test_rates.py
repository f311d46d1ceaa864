"""Rankings as pairs, intervals, and biases that were planted."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.feedback import rates
from didact.feedback.rates import Share, leniency, pairs, wilson
from didact.feedback.records import Ranking
from didact.feedback.standing import Said
from tests.feedback.samples import exchange


@st.composite
def rankings(draw):
    """Any order of up to eight candidates, cut into groups."""
    order = draw(st.permutations(range(draw(st.integers(0, 8)))))
    cuts = sorted(draw(st.sets(st.integers(1, max(len(order) - 1, 1)))))
    groups = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return [group for group in groups if group]


@given(rankings())
def test_a_ranking_is_each_two_candidates_once(ranking):
    place = {number: i for i, group in enumerate(ranking) for number in group}
    found = list(pairs(ranking))
    assert len(found) == len(place) * (len(place) - 1) // 2
    assert len({frozenset(pair[:2]) for pair in found}) == len(found)
    for better, worse, tied in found:
        assert tied == (place[better] == place[worse])
        assert tied or place[better] < place[worse]


@given(rankings())
def test_pairs_give_the_ranking_back(ranking):
    """Who beats as many is in one group."""
    beaten = {number: 0 for group in ranking for number in group}
    for better, _, tied in pairs(ranking):
        beaten[better] += not tied
    again = [{n for n in beaten if beaten[n] == count} for count in sorted(set(beaten.values()), reverse=True)]
    assert again == [set(group) for group in ranking]


def test_wilsons_interval():
    assert wilson(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)  # R: prop.test(0, 10, correct = FALSE)
    assert wilson(1, 10) == pytest.approx((0.72247, 1), abs=1e-5)


@given(st.integers(1, 1000), st.floats(0, 1))
def test_the_interval_holds_its_rate(count, rate):
    low, high = wilson(rate, count)
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1


def test_nine_of_ten_intervals_and_more_hold_the_truth():
    draw, held = random.Random(0), 0
    for _ in range(400):
        low, high = wilson(sum(draw.random() < 0.3 for _ in range(50)) / 50, 50)
        held += low <= 0.3 <= high
    assert 0.92 < held / 400 < 0.98


def said(answers, groups, shown=None, annotator="ann") -> Said:
    made = exchange(*answers, shown=range(len(answers)) if shown is None else shown)
    return Said(made, Ranking(exchange="x", annotator=annotator, ranking=groups), "x", "j")


def test_who_takes_the_first_shown_is_found():
    draw, found = random.Random(0), []
    for _ in range(400):
        shown = draw.sample(range(3), 3)
        first = shown[0] if draw.random() < 0.6 else draw.randrange(3)
        rest = [n for n in range(3) if n != first]
        found.append(said("aaa", [[first], rest], shown))
    plain = rates.first_shown(found).plain()
    assert plain["low"] > 0.5
    fair = [said("ab", [[n], [1 - n]], draw.sample(range(2), 2)) for n in draw.choices(range(2), k=400)]
    plain = rates.first_shown(fair).plain()
    assert plain["low"] < 0.5 < plain["high"]
    assert plain["rounds"] == 400


def test_who_takes_the_longer_is_found():
    found = [said(["a" * 9, "b", "c" * 5], [[0], [2], [1]])] * 20
    assert rates.longer(found) == Share(1.0, 20)
    assert rates.longer([said(["aa", "bb"], [[0], [1]])]).rounds == 0
    assert rates.longer([said(["aa", "b"], [[0, 1]])]).rounds == 0


def test_an_order_that_is_not_known_tells_nothing_of_it():
    assert rates.first_shown([said("ab", [[0], [1]], shown=[])]).plain() == Share(0.0, 0).plain()


def test_wins_count_ties_half_and_each_round_once():
    found = rates.wins([said("xyz", [[0], [1, 2]]), said("xy", [[1], [0]])])
    assert found == {"a": Share(0.5, 2), "b": Share((0.25 + 1) / 2, 2), "c": Share(0.25, 1)}


def test_answers_of_one_model_do_not_compete():
    one = said("xy", [[0], [1]])
    same = one.exchange.model_copy(update={"candidates": (one.exchange.candidates[0],) * 2})
    assert rates.wins([Said(same, one.judgement, "x", "j")]) == {}


def test_leniency_is_against_the_others_on_the_same_things():
    votes = [(unit, who, unit % 3 + more) for unit in range(30) for who, more in (("a", 1), ("b", 0), ("c", 0))]
    found = leniency([*votes, ("alone", "d", 5)])
    assert found["a"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 30}
    assert found["b"]["mean"] == pytest.approx(-0.5)
    assert "d" not in found
