"""The gauges of a stage in its report: every curve, and where the held-out reward turned."""

import math

import numpy as np
import pytest

from didact.engine.metrics import Metrics
from didact.run.gauges import names
from didact.run.report import RunSummary, StageSummary, gauged, page, rewarded


@pytest.fixture
def stage(tmp_path):
    r = np.random.default_rng(0)
    with Metrics(tmp_path / "m.jsonl") as log:
        for step in range(1, 101):
            d = 6 * math.sqrt(step / 100)
            log.write(
                step,
                loss=1.0,
                trained_tokens=8 * step,  # answers, in truth
                **{
                    "gauge/grpo/kl_answer": d * d,
                    "gauge/grpo/reward": 0.9 * d + 0.1 * r.normal(),
                    "gauge/grpo/reward/heldout": d * (1.2 - 0.9 * math.log(d)) + 0.1 * r.normal(),
                    "gauge/grpo/entropy": math.nan if step == 5 else 1 / step,
                },
            )
    return StageSummary("reinforce", "rl", 1.0, 100, 0.1, {}, tmp_path / "m.jsonl", (), stopped="kl > 35 at step 100")


def test_every_gauge_is_drawn(stage):
    assert len(gauged(stage, "s0")) == 4
    assert names([{"gauge/a/kl": 1.0, "loss": 2.0}, {"gauge/b/kl": 1.0}]) == ["gauge/a/kl", "gauge/b/kl"]


def test_the_fit_says_where_the_held_out_reward_turned(stage):
    ((wide, narrow, said),) = rewarded(stage, "s0")
    assert "<svg" in wide
    assert "<svg" in narrow
    assert said[0] == "the reward that is trained on: no peak in sight up to \u221aKL 6.00"
    peak = math.exp(1.2 / 0.9 - 1)
    assert f"reward/heldout, which is not trained on: highest at \u221aKL {peak:.1f}" in said[1]


def test_the_page_shows_them_and_why_the_stage_ended(stage):
    html = page(RunSummary("x", "name: x", [stage]))
    assert "Ended early, as stop_when says: kl &gt; 35 at step 100." in html
    assert "held-out reward" in html
    assert "KL (nats an answer)" in html
    assert "trained token" not in html


def test_a_stage_without_gauges_shows_none(tmp_path):
    with Metrics(tmp_path / "m.jsonl") as log:
        log.write(1, loss=1.0)
    stage = StageSummary("pretrain", "p", 1.0, 100, 0.1, {}, tmp_path / "m.jsonl")
    assert gauged(stage, "s0") == []
    assert rewarded(stage, "s0") == []
    assert "Gauges" not in page(RunSummary("x", "name: x", [stage]))
