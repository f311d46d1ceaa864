"""Gao's curve, best-of-n, length, and a planted reward that pays for length, over ten seeds."""

import math

import numpy as np
import pytest

from didact.engine.brakes import Brakes
from didact.measure.gaming import best_of_n_kl, distinct, gao, length_correlation

ANSWERS = 4000
STEPS = 160


@pytest.mark.parametrize(("kind", "peak"), [("rl", math.exp(2.0 / 0.8 - 1)), ("bon", 2.0 / (2 * 0.8))])
def test_the_fit_finds_the_curve_it_was_drawn_from(kind, peak):
    d = np.linspace(0, 8, 60)
    bent = np.log(np.maximum(d, 1e-9)) if kind == "rl" else d
    gold = 0.3 + d * (2.0 - 0.8 * bent) + np.random.default_rng(0).normal(0, 0.02, 60)
    found = gao(d**2, gold, kind)
    assert found is not None
    assert (found.alpha, found.beta, found.start) == pytest.approx((2.0, 0.8, 0.3), abs=0.03)
    assert found.peak == pytest.approx(peak, rel=0.02)
    assert found.top == pytest.approx(found.gain(peak), rel=1e-3)
    assert found.top > max(found.gain(peak - 0.5), found.gain(peak + 0.5))
    assert found.gain(0.0) == 0
    given = gao(d**2, gold, kind, start=0.3)
    assert given is not None
    assert given.start == 0.3
    assert given.beta == pytest.approx(0.8, abs=0.02)


def test_a_reward_that_only_rises_has_no_peak():
    d = np.linspace(0, 5, 40)
    found = gao(d**2, 0.7 * d + np.random.default_rng(1).normal(0, 0.05, 40))
    assert found is not None
    assert found.peak is None
    assert found.top is None


def test_too_little_is_not_fitted():
    assert gao([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]) is None
    assert gao([4.0] * 20, list(range(20))) is None
    assert gao([float("nan")] * 20, [1.0] * 20) is None


def test_best_of_n_is_as_far_from_the_reference_as_is_known():
    assert [round(best_of_n_kl(n), 3) for n in (1, 4, 16)] == [0.0, 0.636, 1.835]


def test_distinct_counts_different_n_grams():
    assert distinct([["a", "b", "c", "d"]]) == 1.0
    assert distinct([["a", "b", "a", "b", "a", "b"]]) == 2 / 5
    assert distinct([["a", "b"], ["a", "b"]]) == 0.5
    assert distinct([["a"]]) == 0.0
    assert distinct([[1, 2, 3, 1]], n=1) == 3 / 4


def life(seed: int, hackable: bool) -> tuple[Brakes, list[float], list[float], float]:
    """A policy that moves to what a proxy reward pays for, step by step along the optimum of each KL.

    Answers have a quality and a length; people (the held-out reward) want quality, and no very long answers.
    """
    r = np.random.default_rng(seed)
    quality, length = r.normal(0, 1, ANSWERS), np.exp(r.normal(4, 0.5, ANSWERS))
    gold = quality - 10 * np.maximum(np.log(length) - 4.4, 0) ** 2
    proxy = quality + 2 * (np.log(length) - 4) if hackable else gold + r.normal(0, 0.3, ANSWERS)
    brakes, kls, golds = Brakes(), [], []
    for step in range(1, STEPS + 1):
        tilt = np.exp(2 * step / STEPS * (proxy - proxy.max()))
        p = tilt / tilt.sum()
        kl = float((p * np.log(p * ANSWERS + 1e-300)).sum())
        drawn = r.choice(ANSWERS, 128, p=p)
        gauges = {"kl": kl / 60, "length": length[drawn].mean(), "reward": proxy[drawn].mean()}
        gauges["reward/heldout"] = gold[drawn].mean()
        brakes.check(step, 1.0, 1.0, {("rl", name): float(value) for name, value in gauges.items()})
        kls.append(kl)
        golds.append(float(gold[drawn].mean()))
    start = r.choice(ANSWERS, 256)
    return brakes, kls, golds, length_correlation(proxy[start], np.log(length[start]), gold[start])


@pytest.mark.parametrize("seed", range(10))
def test_a_reward_that_pays_for_length_trips_the_alarms(seed):
    brakes, kl, gold, correlation = life(seed, hackable=True)
    assert "rl/over_optimised" in brakes.said
    assert "rl/length_pays" in brakes.said
    assert correlation > 0.6
    fit = gao(kl, gold)
    assert fit is not None
    assert fit.peak is not None
    assert fit.peak < math.sqrt(kl[-1])


@pytest.mark.parametrize("seed", range(10))
def test_an_honest_reward_trips_none(seed):
    brakes, kl, gold, correlation = life(seed, hackable=False)
    assert not brakes.said
    assert abs(correlation) < 0.3
    fit = gao(kl, gold)
    assert fit is not None
    assert fit.peak is None or fit.peak > math.sqrt(kl[-1])
