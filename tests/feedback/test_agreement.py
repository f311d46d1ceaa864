"""Agreement beyond chance, and who is good: against published values, another package, and planted truth."""

import math

import numpy as np
import pytest

from didact.feedback.agreement import alpha, dawid_skene, posterior, table

_ = math.nan
# Krippendorff (2004), four annotators and twelve units
TABLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
LEVELS = ("nominal", "ordinal", "interval", "ratio")


@pytest.mark.parametrize(("level", "wanted"), zip(LEVELS, (0.7434, 0.8154, 0.8491, 0.7974), strict=True))
def test_the_published_values(level, wanted):
    assert alpha(TABLE, level) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_any_table_as_the_other_package_has_it(level):
    krippendorff = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    for trial in range(20):
        values = rng.integers(0 if trial % 2 else 1, 6, (rng.integers(2, 6), 15)).astype(float)
        values[rng.random(values.shape) < 0.4] = math.nan
        other = krippendorff.alpha(reliability_data=values, level_of_measurement=level)
        assert alpha(values, level) == pytest.approx(other, abs=1e-9)


def test_agreement_chance_and_opposition():
    same = np.tile([1.0, 2, 3, 4], (3, 1))
    assert alpha(same, "interval") == 1
    assert alpha(np.array([[0.0, 1, 0, 1], [1, 0, 1, 0]]), "nominal") < -0.5
    drawn = np.random.default_rng(0).integers(0, 2, (2, 4000)).astype(float)
    assert abs(alpha(drawn, "nominal")) < 0.05


def test_nothing_can_be_said_of_one_value_or_of_units_judged_once():
    assert math.isnan(alpha(np.ones((2, 3)), "nominal"))
    assert math.isnan(alpha(np.array([[1.0, _], [_, 2.0]]), "nominal"))
    assert math.isnan(alpha(np.zeros((0, 0)), "ordinal"))


def test_votes_become_a_table():
    values, units, annotators = table([("u", "b", 1), ("v", "a", 2), ("u", "b", 3)])
    assert (units, annotators) == (["u", "v"], ["a", "b"])
    np.testing.assert_array_equal(values, [[_, 2], [3, _]])


# --- Dawid and Skene ---------------------------------------------------------------------------------------


def planted(skill, units, classes, seed=0, missing=0.3, prior=None):
    """Truth and votes of annotators who are right with ``skill``, else wrong evenly."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, units, p=prior)
    wrong = (truth + rng.integers(1, classes, (len(skill), units))) % classes
    said = np.where(rng.random((len(skill), units)) < np.array(skill)[:, None], truth, wrong)
    said[rng.random(said.shape) < missing] = -1
    said[0, (said < 0).all(0)] = 0
    return truth, said


def test_annotators_of_equal_skill_are_a_majority_vote():
    rng = np.random.default_rng(1)
    said = rng.integers(0, 2, (5, 200))
    equal = np.tile([[0.7, 0.3], [0.3, 0.7]], (5, 1, 1))
    found = posterior(said, np.array([0.5, 0.5]), equal).argmax(1)
    np.testing.assert_array_equal(found, (said.mean(0) > 0.5).astype(int))


def test_a_known_skill_weighs_its_log_odds():
    skill = np.array([0.9, 0.6, 0.8])
    confusion = np.array([[[p, 1 - p], [1 - p, p]] for p in skill])
    said = np.array([[a, b, c] for a in (0, 1, -1) for b in (0, 1, -1) for c in (0, 1, -1)]).T
    sign = np.where(said < 0, 0, 2 * said - 1)
    wanted = (np.log(skill / (1 - skill))[:, None] * sign).sum(0) + math.log(0.3 / 0.7)
    found = posterior(said, np.array([0.7, 0.3]), confusion)
    np.testing.assert_allclose(np.log(found[:, 1] / found[:, 0]), wanted, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_planted_annotators_are_found(classes):
    skill = [0.95, 0.85, 0.7, 0.6, 1 / classes]
    truth, said = planted(skill, 3000, classes)
    found = dawid_skene(said, classes)
    np.testing.assert_allclose(found.accuracy, skill, atol=0.04)
    assert (found.posterior.argmax(1) == truth).mean() > 0.85
    np.testing.assert_allclose(found.prior, np.bincount(truth) / len(truth), atol=0.05)


def test_it_beats_the_majority_where_most_annotators_guess():
    truth, said = planted([0.95, 0.95, 0.5, 0.5, 0.5], 2000, 2, missing=0)
    majority = (said.mean(0) > 0.5).astype(int)
    found = dawid_skene(said, 2).posterior.argmax(1)
    assert (found == truth).mean() > (majority == truth).mean() + 0.05


def test_a_prior_that_is_not_even_and_confusion_that_is_one_sided():
    rng = np.random.default_rng(3)
    truth = (rng.random(4000) < 0.8).astype(int)
    said = np.stack([np.where(rng.random(4000) < p, truth, 1 - truth) for p in (0.9, 0.8, 0.8)])
    said = np.vstack([said, np.ones((1, 4000), int)])  # who always says yes
    found = dawid_skene(said, 2)
    assert found.prior[1] == pytest.approx(0.8, abs=0.03)
    assert found.confusion[3, 0, 1] > 0.98  # and so is wrong of every no
    assert found.accuracy[3] == pytest.approx(0.8, abs=0.03)


def test_few_votes_prove_little():
    said = np.array([[1, 1, 1], [1, 1, 1], [1, -1, -1]])
    found = dawid_skene(said, 2)
    assert 0.6 < found.accuracy[2] < found.accuracy[0] < 0.95
