import math

import pytest

from didact.engine.schedule import scale
from didact.engine.settings import Training


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_warms_up_to_the_peak_and_never_leaves_the_band(kind):
    settings = Training(schedule=kind, warmup_ratio=0.1, min_ratio=0.1)
    values = [scale(step, 100, settings) for step in range(100)]
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(0.1 <= v <= 1 for v in values[10:])
    assert values[10] == pytest.approx(1.0)


def test_shapes():
    plain = {"warmup_ratio": 0.0}
    assert scale(50, 100, Training(schedule="linear", **plain)) == pytest.approx(0.5)
    assert scale(25, 100, Training(schedule="cosine", **plain)) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    wsd = Training(schedule="wsd", decay_ratio=0.2, **plain)
    assert scale(79, 100, wsd) == 1.0
    assert scale(90, 100, wsd) == pytest.approx(1 - math.sqrt(0.5))


def test_wsd_without_a_decay_is_constant():
    assert scale(99, 100, Training(schedule="wsd", decay_ratio=0.0, warmup_ratio=0.0)) == 1.0
