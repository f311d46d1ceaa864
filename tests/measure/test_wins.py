"""Win rates against what they were drawn from, with and without length."""

import numpy as np
import pytest

from didact.feedback.rates import wilson
from didact.measure.wins import win_rate


def drawn(seed: int, skill: float, length: float, count: int = 600) -> tuple[list[float], list[tuple[int, int]]]:
    """Wins of a model of some skill (log-odds) before a judge who also pays for length."""
    r = np.random.default_rng(seed)
    ours, theirs = r.integers(60, 200, count), r.integers(40, 140, count)
    difference = ours - theirs
    odds = skill + length * np.tanh(difference / difference.std())
    won = r.random(count) < 1 / (1 + np.exp(-odds))
    return [float(one) for one in won], list(zip(ours.tolist(), theirs.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_what_length_won_is_taken_out(seed):
    wins, lengths = drawn(seed, skill=0.0, length=2.0)
    found = win_rate(wins, lengths, seed)
    assert found.low > 0.55
    assert found.controlled == pytest.approx(0.5, abs=0.09)
    assert found.controlled_high - found.controlled_low < 0.15
    assert found.longer == pytest.approx(2.0, abs=0.6)


@pytest.mark.parametrize("seed", range(5))
def test_what_skill_won_stays(seed):
    wins, lengths = drawn(seed, skill=1.0, length=0.0)
    found = win_rate(wins, lengths, seed)
    assert found.controlled_low > 0.5
    assert found.controlled == pytest.approx(1 / (1 + np.exp(-1)), abs=0.08)


def test_without_length_it_is_the_share_of_wins():
    found = win_rate([1.0, 1.0, 0.0, 0.5], [(10, 10)] * 4)
    assert found.rate == 0.625
    assert (found.low, found.high) == wilson(0.625, 4)
    assert (found.ties, found.count) == (1, 4)
    assert found.controlled == pytest.approx((2.5 + 0.5) / 5)  # with half a win and half a loss more
    assert found.longer == 0


def test_winning_always_is_not_certain():
    found = win_rate([1.0] * 30, [(100 + i, 50) for i in range(30)])
    assert found.high == 1.0
    assert 0.5 < found.controlled < 1
    assert np.isfinite(found.longer)
    same = win_rate([1.0] * 30, [(100 + i, 50) for i in range(30)])
    assert same == found


@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_few_prompts_all_won_prove_little(count):
    """Drawn anew they are all won again: the bootstrap alone would be certain."""
    found = win_rate([1.0] * count, [(10, 10)] * count)
    assert found.controlled_low <= found.low + 0.02
    assert found.controlled_low < found.controlled < found.controlled_high


def test_two_models_exchanged_exchange_their_rates():
    wins, lengths = drawn(1, skill=0.4, length=1.0)
    ours = win_rate(wins, lengths)
    theirs = win_rate([1 - won for won in wins], [(b, a) for a, b in lengths])
    assert theirs.controlled == pytest.approx(1 - ours.controlled)
    assert theirs.rate == pytest.approx(1 - ours.rate)
