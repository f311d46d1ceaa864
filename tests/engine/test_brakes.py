"""Every alarm on a planted case and on a clean run, over ten seeds; rules; bit-for-bit restore."""

import json
import math
import random
from collections.abc import Callable
from statistics import variance

import pytest

from didact.engine.brakes import ALARMS, Brakes
from didact.engine.rules import rule
from didact.engine.settings import Training
from didact.engine.trend import apart, partial, trend
from didact.errors import UsageProblem

STEPS = 200
Course = Callable[[float, random.Random], float]


def clean(noise: float = 1.0) -> dict[str, Course]:
    """An ordinary run: everything moves, nothing too far. ``t`` goes from 0 to 1."""
    return {
        "kl": lambda t, r: 0.08 * t**0.5 + 0.002 * abs(r.gauss(0, noise)),
        "entropy": lambda t, r: 1.2 - 0.5 * t + 0.05 * r.gauss(0, noise),
        "length": lambda t, r: 80 + 10 * t + 6 * r.gauss(0, noise),
        "reward": lambda t, r: 2 * t + 0.3 * r.gauss(0, noise),
        "reward/heldout": lambda t, r: 1.2 * t + 0.3 * r.gauss(0, noise),
        "clip_fraction": lambda t, r: 0.1 + 0.05 * r.random(),
        "no_signal": lambda t, r: 0.3 + 0.2 * r.random(),
        "mismatch": lambda t, r: 0.004 + 0.002 * r.random(),
        "chosen_token": lambda t, r: -0.15 * t + 0.05 * r.gauss(0, noise),
        "distinct": lambda t, r: 0.7 - 0.1 * t + 0.02 * r.gauss(0, noise),
    }


def gamed(t: float, r: random.Random) -> float:
    """Up to the middle and down again."""
    return 1.0 - 6 * (t - 0.5) ** 2 + 0.1 * r.gauss(0, 1)


PLANTED: dict[str, dict[str, Course]] = {
    "kl_high": {"kl": lambda t, r: 3 * t},
    "kl_jumps": {"kl": lambda t, r: 0.4 if 0.6 < t < 0.62 else 0.03 + 0.002 * r.gauss(0, 1)},
    "entropy_collapses": {"entropy": lambda t, r: 1.2 * 0.01**t},
    "clips": {"clip_fraction": lambda t, r: 0.1 + 0.4 * t},
    "no_signal": {"no_signal": lambda t, r: 0.95 * min(1, 2 * t)},
    "mismatch": {"mismatch": lambda t, r: 0.2 * t},
    "chosen_falls": {"chosen_token": lambda t, r: -0.8 * t + 0.1 * r.gauss(0, 1)},
    "over_optimised": {"reward/heldout": gamed},
    "repeats": {"distinct": lambda t, r: 0.7 * 0.1**t},
}


def run(courses: dict[str, Course], seed: int, brakes: Brakes | None = None, steps: int = STEPS) -> list[str]:
    brakes, r = brakes or Brakes(), random.Random(seed)
    lines: list[str] = []
    for step in range(1, steps + 1):
        lines += brakes.check(
            step, 1.0, 1.0, {("rl", name): course(step / steps, r) for name, course in courses.items()}
        )
    return lines


def fired(courses: dict[str, Course], seed: int) -> set[str]:
    brakes = Brakes()
    run(courses, seed, brakes)
    return {name.partition("/")[2] for name in brakes.said}


def hackable(seed: int) -> Callable[[str], Course]:
    """A reward that pays for length: the policy draws longer and longer answers, and each step's luck is shared."""
    luck = random.Random(seed)
    lengths = [60 + 90 * i / STEPS + 8 * luck.gauss(0, 1) for i in range(STEPS + 1)]

    def course(name: str) -> Course:
        if name == "length":
            return lambda t, r: lengths[round(t * STEPS)]
        return lambda t, r: 0.05 * lengths[round(t * STEPS)] + 0.2 * r.gauss(0, 1)

    return course


@pytest.mark.parametrize("seed", range(10))
def test_a_clean_run_is_quiet(seed):
    assert fired(clean(), seed) == set()


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_each_alarm_is_raised_by_its_case_and_no_other_is(name):
    for seed in range(10):
        assert fired(clean() | PLANTED[name], seed) == {name}


@pytest.mark.parametrize("seed", range(10))
def test_a_reward_that_pays_for_length_is_noticed(seed):
    course = hackable(seed)
    planted = {"length": course("length"), "reward": course("reward")}
    assert fired(clean() | planted, seed) == {"length_pays"}
    without = {name: one for name, one in (clean() | planted).items() if name != "reward/heldout"}
    assert fired(without, seed) == {"length_pays"}


@pytest.mark.parametrize("seed", range(10))
def test_answers_that_grow_because_they_get_better_are_not_called_gamed(seed):
    course = hackable(seed)
    honest = {"length": course("length"), "reward": course("reward"), "reward/heldout": course("reward")}
    assert fired(clean() | honest, seed) == set()


def test_every_alarm_is_planted_and_has_a_remedy():
    assert {alarm.__name__ for alarm in ALARMS} == PLANTED.keys() | {"length_pays"}
    for planted in PLANTED.values():
        assert all(";" in line for line in run(clean() | planted, 0))


def test_what_holds_on_is_said_again_only_after_a_while():
    lines = run({"kl": lambda t, r: 5.0}, 0, steps=300)
    assert [line.split(":")[0] for line in lines] == ["step 16", "step 144", "step 272"]


def test_the_alarms_of_tasks_do_not_mix():
    brakes = Brakes()
    for step in range(1, 40):
        brakes.check(step, 1.0, 1.0, {("rl", "kl"): 5.0, ("dpo", "kl"): 0.01})
    assert set(brakes.said) == {"rl/kl_high"}


def test_restored_brakes_go_on_bit_for_bit():
    courses = clean() | PLANTED["over_optimised"] | PLANTED["chosen_falls"]
    whole, rules = Brakes([rule("reward/heldout falls 40 steps")]), [rule("reward/heldout falls 40 steps")]
    broken, r, s = Brakes(rules), random.Random(3), random.Random(3)
    for step in range(1, STEPS + 1):
        one = whole.check(step, 1.0, 1.0, {("rl", n): c(step / STEPS, r) for n, c in courses.items()})
        state = json.loads(json.dumps(broken.state()))
        broken = Brakes(rules)
        broken.restore(state)
        assert broken.check(step, 1.0, 1.0, {("rl", n): c(step / STEPS, s) for n, c in courses.items()}) == one
    assert json.dumps(broken.state()) == json.dumps(whole.state())
    assert whole.stopped.startswith("reward/heldout falls 40 steps at step ")


def test_what_is_not_finite_is_not_counted():
    brakes = Brakes([rule("kl > 10")])
    for step in range(1, 50):
        assert brakes.check(step, 1.0, 1.0, {("rl", "kl"): float("nan" if step % 2 else "inf")}) == []
    assert brakes.tracks["rl"]["kl"].count == 0
    assert not brakes.stopped


# --- rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "courses", "at"),
    [
        ("kl > 10", {"kl": lambda t, r: 100 * t}, 21),
        ("kl > 10 for 5 steps", {"kl": lambda t, r: 100 * t}, 25),
        ("rl/kl > 10", {"kl": lambda t, r: 100 * t}, 21),
        ("entropy < 0.25", {"entropy": lambda t, r: 1 - t}, 151),
        ("reward/heldout falls 50 steps", {"reward/heldout": lambda t, r: -abs(t - 0.5)}, 129),
        ("reward rises for 3 steps", {"reward": lambda t, r: t}, 3),
        ("dpo/kl > 10", {"kl": lambda t, r: 100 * t}, None),
        ("kl > 200", {"kl": lambda t, r: 100 * t}, None),
        ("reward falls 50 steps", {"reward": lambda t, r: 1.0}, None),
        ("reward falls 50 steps", {"reward": lambda t, r: t}, None),
    ],
)
def test_a_rule_ends_the_stage_when_it_holds(text, courses, at):
    brakes = Brakes([rule(text)])
    lines = run(courses, 0, brakes)
    if at is None:
        assert not brakes.stopped
        return
    assert brakes.stopped == f"{text} at step {at}"
    assert sum("stop_when" in line for line in lines) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kl",
        "kl >",
        "kl > ten",
        "kl = 3",
        "kl falls",
        "kl falls 2 steps",
        "kl > 3 for 0 steps",
        "kl falls 9999 steps",
    ],
)
def test_what_is_no_rule_is_said_when_the_recipe_is_read(text):
    with pytest.raises(ValueError, match=r"rule|trend"):
        rule(text)
    with pytest.raises(ValueError, match=r"rule|trend"):
        Training(stop_when=(text,))


def test_a_rule_of_a_gauge_that_nothing_gives_would_never_end_anything():
    known = [("rl", "kl")]
    with pytest.raises(UsageProblem, match="nothing here gives a gauge 'kk'; there are grad_norm, kl, loss"):
        Brakes([rule("kk > 10")]).require(known, "reinforce")
    Brakes([rule("kl > 10"), rule("rl/kl > 10"), rule("loss < 0.1")]).require(known, "reinforce")


# --- statistics --------------------------------------------------------------------------------------------


def test_a_trend_is_counted_in_standard_errors():
    assert trend([1.0, 2.0]) == 0
    assert trend([1.0, 1.0, 1.0, 1.0]) == 0
    assert trend([1.0, 2.0, 3.0]) == float("inf")
    assert trend([3.0, 2.0, 1.0]) == float("-inf")
    values = [0.3, 0.1, 0.4, 0.9, 0.7, 1.2]
    r = partial(range(6), values)
    assert trend(values) == pytest.approx(r * math.sqrt(4 / (1 - r * r)))  # the t of a correlation
    one, other = [1.0, 2.0, 4.0], [2.0, 5.0, 6.0, 9.0]
    assert apart(one, other) == pytest.approx((22 / 4 - 7 / 3) / math.sqrt(variance(one) / 3 + variance(other) / 4))


def test_partial_correlation_equals_its_formula():
    r = random.Random(0)
    z = [r.gauss(0, 1) for _ in range(400)]
    x = [one + r.gauss(0, 1) for one in z]
    y = [one + r.gauss(0, 1) for one in z]
    xy, xz, yz = partial(x, y), partial(x, z), partial(y, z)
    assert partial(x, y, [z]) == pytest.approx((xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5)
    assert xy > 0.4
    assert abs(partial(x, y, [z])) < 0.15
    assert partial(x, [1.0] * 400) != partial(x, [1.0] * 400)  # nothing is left to correlate
