"""Planted accidents fire their alarm, ten clean runs stay quiet, and a restored watch decides alike."""

import json
import math
import random

import pytest

from didact.engine.alarms import EXPLODED, WINDOW, Verdict, Watch, cut_documents, require_trained
from didact.errors import DataProblem

OK, SKIP, ROLLBACK, STOP = Verdict.OK, Verdict.SKIP, Verdict.ROLLBACK, Verdict.STOP


def clean(seed, steps=1000, noise=0.1):
    """A noisy power law and skewed gradient norms, as small batches of ragged text give them."""
    draw = random.Random(seed)
    for step in range(steps):
        yield step, 2 + 3 * (1 + step / 100) ** -0.5 + draw.gauss(0, noise), draw.lognormvariate(0, 0.4)


def warm(watch, steps=WINDOW, seed=0):
    for step, loss, norm in clean(seed, steps):
        assert watch.check(step, loss, norm) == (OK, [])
    return steps


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_clean_runs_are_quiet(seed, noise):
    watch = Watch()
    said = [(step, watch.check(step, loss, norm, [step], 1e-3)) for step, loss, norm in clean(seed, noise=noise)]
    assert [(step, verdict, lines) for step, (verdict, lines) in said if verdict is not OK or lines] == []


def test_overfitting_to_almost_nothing_is_quiet():
    watch, draw = Watch(patience=10_000), random.Random(1)
    for step in range(1000):
        scale = 3 * math.exp(-step / 100)
        verdict, _ = watch.check(step, scale * draw.uniform(0.8, 1.2), scale * draw.uniform(0.5, 2))
        assert verdict is OK


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (math.nan, 1.0, "loss is nan"),
        (math.inf, 1.0, "loss is inf"),
        (-math.inf, 1.0, "loss is -inf"),
        (2.0, math.nan, "gradient norm is nan"),
        (2.0, math.inf, "gradient norm is inf"),
    ],
)
def test_nonfinite_numbers_are_skipped_with_a_remedy(loss, norm, what):
    verdict, (line,) = Watch().check(7, loss, norm, [3, 4])
    assert verdict is SKIP
    assert line.startswith(f"step 7 (rows 3, 4): {what}; ")
    assert "lower learning_rate" in line


def test_three_nonfinite_in_a_row_go_back_once_and_then_stop_with_the_ids():
    watch = Watch()
    first = [watch.check(step, math.nan, 1.0, [10 * step])[0] for step in range(3)]
    assert first == [SKIP, SKIP, ROLLBACK]
    second = [watch.check(step, math.nan, 1.0, [10 * step]) for step in range(3)]
    assert [verdict for verdict, _ in second] == [SKIP, SKIP, STOP]
    assert "(rows 0, 10, 20)" in second[-1][1][0]
    assert "again after going back" in second[-1][1][0]


def test_nonfinite_steps_apart_from_each_other_are_only_skipped():
    watch = Watch()
    for step in range(30):
        verdict, _ = watch.check(step, math.nan if step % 3 else 2.0, 1.0)
        assert verdict is (SKIP if step % 3 else OK)


def test_going_back_does_not_forget_that_it_went_back():
    watch = Watch()
    saved = watch.state()
    for step in range(3):
        watch.check(step, math.nan, 1.0)
    watch.restore(saved)
    assert [watch.check(step, math.nan, 1.0)[0] for step in range(3)] == [SKIP, SKIP, STOP]


@pytest.mark.parametrize(("loss", "norm", "what"), [(8.0, 1.0, "loss 8 is"), (3.5, 50.0, "log gradient norm 3.91")])
def test_a_spike_is_skipped_and_the_next_step_is_not(loss, norm, what):
    watch = Watch()
    step = warm(watch)
    verdict, (line,) = watch.check(step, loss, norm, ["a.jsonl:7"])
    assert verdict is SKIP
    assert f"step {step} (rows a.jsonl:7): {what}" in line
    assert "sigma above the last 128 steps" in line
    assert watch.check(step + 1, 3.5, 1.0) == (OK, [])


def test_the_threshold_is_six_sigma():
    watch = Watch()
    for step in range(WINDOW):  # mean 2, sigma 0.5
        watch.check(step, 1.5 + step % 2, 1.0)
    state = watch.state()
    assert watch.check(WINDOW, 2 + 6 * 0.5 - 0.001, 1.0)[0] is OK
    watch.restore(state)
    assert watch.check(WINDOW, 2 + 6 * 0.5 + 0.001, 1.0)[0] is SKIP


def test_one_wild_step_does_not_blind_the_alarm():
    watch = Watch()
    step = warm(watch)
    assert watch.check(step, 1e300, 1.0)[0] is SKIP
    assert watch.check(step + 1, 8.0, 1.0)[0] is SKIP


def test_too_little_history_says_nothing():
    watch = Watch()
    for step in range(WINDOW // 2):
        assert watch.check(step, 2.0 if step % 7 else 1e300, 1.0) == (OK, [])


def test_a_moderate_lasting_change_of_level_becomes_normal():
    watch, draw = Watch(), random.Random(0)
    verdicts = [watch.check(step, 2 + draw.gauss(0, 0.1) + (step > 200), 1.0)[0] for step in range(300)]
    assert SKIP in verdicts
    assert set(verdicts[210:]) == {OK}


def test_an_exploded_model_goes_back_and_then_stops():
    watch, draw = Watch(), random.Random(0)
    verdicts = [watch.check(step, 2 + draw.gauss(0, 0.1) + 30 * (step >= 200), 1.0)[0] for step in range(240)]
    assert verdicts[200:216] == [SKIP] * (EXPLODED - 1) + [ROLLBACK]
    assert STOP not in verdicts[:216]


def test_a_learning_rate_of_zero_is_said_once():
    watch = Watch()
    rates = [0.0, 0.0, 1e-3, 1e-3, *[0.0] * 6]
    said = [(step, line) for step, rate in enumerate(rates) for line in watch.check(step, 2.0, 1.0, (), rate)[1]]
    assert [step for step, _ in said] == [6]
    assert "nothing is learned; look at schedule" in said[0][1]


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_does_not_fall_is_said(seed):
    watch, draw = Watch(patience=128), random.Random(seed)
    said = [line for step in range(4000) for line in watch.check(step, 2 + draw.gauss(0, 0.05), 1.0)[1]]
    assert said
    assert "the mean loss has not fallen below" in said[0]
    assert "for 128 steps" in said[0]


def test_a_rising_loss_is_said_every_patience():
    watch = Watch(patience=100)
    said = [step for step in range(325) if watch.check(step, 2 + step * 1e-4, 1.0)[1]]
    assert said == [124, 224, 324]


def test_a_restored_watch_decides_alike():
    draw = random.Random(5)
    numbers = [(draw.choice([2.0, 2.1, 9.0, math.nan]) + draw.random() / 10, draw.random()) for _ in range(600)]
    whole = Watch(patience=64)
    expected = [whole.check(step, *pair, [step]) for step, pair in enumerate(numbers)]
    for cut in (1, 63, 64, 200, 333, 599):
        before, after = Watch(patience=64), Watch(patience=64)
        for step, pair in enumerate(numbers[:cut]):
            before.check(step, *pair, [step])
        after.restore(json.loads(json.dumps(before.state())))
        assert [after.check(step, *pair, [step]) for step, pair in enumerate(numbers[cut:], cut)] == expected[cut:]
        assert json.dumps(after.state()) == json.dumps(whole.state())


def test_long_lists_of_ids_are_cut():
    _, (line,) = Watch().check(0, math.nan, 1.0, range(100))
    assert "(rows 0, 1, 2, 3, 4, 5, 6, 7 and 92 more)" in line


def test_zero_trained_tokens_is_an_error():
    require_trained(1, 500, "qa.jsonl")
    with pytest.raises(DataProblem, match=r"^qa\.jsonl: not one of the 500 tokens read is trained; .*didact inspect"):
        require_trained(0, 500, "qa.jsonl")


def test_cut_documents_are_counted_and_said():
    assert cut_documents(0, 10, 64) == ""
    line = cut_documents(3, 12, 64)
    assert line.startswith("3 of 12 documents (25.0%) are longer than the context of 64 tokens")
    assert "raise context" in line
