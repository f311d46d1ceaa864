"""When a task of a mixture is trained: phases, shares and ramps."""

import pytest
from pydantic import ValidationError

from didact.engine.settings import Turn


def weights(turn: Turn, steps: int = 8) -> list[float]:
    return [turn.at(step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn(), [1] * 8),
        (Turn(weight=0.5), [0.5] * 8),
        (Turn(phase=(0, 0.25)), [1, 1, 0, 0, 0, 0, 0, 0]),
        (Turn(phase=(0.25, 1)), [0, 0, 1, 1, 1, 1, 1, 1]),
        (Turn(every=4), [1, 0, 0, 0, 1, 0, 0, 0]),
        (Turn(every=4, offset=3), [0, 0, 0, 1, 0, 0, 0, 1]),
        (Turn(phase=(0.5, 1), every=2), [0, 0, 0, 0, 1, 0, 1, 0]),
        (Turn(weight=(1, 8)), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Turn(weight=(1, 0.25), phase=(0.5, 1)), [0, 0, 0, 0, 1, 0.75, 0.5, 0.25]),
    ],
)
def test_weights_step_by_step(turn, expected):
    assert weights(turn) == pytest.approx(expected)


def test_two_phases_share_every_step_between_them():
    first, second = Turn(phase=(0, 0.3)), Turn(phase=(0.3, 1))
    for steps in range(1, 40):
        together = [a + b for a, b in zip(weights(first, steps), weights(second, steps), strict=True)]
        assert together == [1.0] * steps


@pytest.mark.parametrize(
    "wrong", [{"weight": 0}, {"weight": (0, 0)}, {"phase": (0.5, 0.5)}, {"every": 2, "offset": 2}, {"weight": -1}]
)
def test_a_turn_that_never_comes_is_refused(wrong):
    with pytest.raises(ValidationError):
        Turn(**wrong)
