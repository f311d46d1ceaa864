"""The loop: its length, its watch, what it says and what it leaves behind."""

import math
import re

import pytest
import torch

from didact.engine import metrics, probe
from didact.engine.mesh import Mesh
from didact.engine.settings import Training
from didact.engine.train import length, rows_per_process
from didact.errors import Diverged, ResourceProblem, UsageProblem
from tests.engine.worker import closing, said, trail
from tests.engine.worker import train as run
from tests.toy import toy_stream

EPOCH = 1 << 32
JOB = {"steps": 8, "tasks": 1, "training": {"save_every": 2, "learning_rate": 1e-2}}
BROKEN = [8, 12, EPOCH]  # one row each of the batches of steps 3, 4 and 5: the first epoch has sixteen rows


def test_length_is_the_first_bound_reached():
    stream = toy_stream(documents=24)
    rows, tokens = len(stream.epoch(0)), stream.tokens_per_epoch()
    assert length(Training(batch_size=4), stream) == math.ceil(rows / 4)
    assert length(Training(batch_size=4, epochs=2.5), stream) == math.ceil(2.5 * rows / 4)
    assert length(Training(batch_size=4, epochs=2.5, max_steps=3), stream) == 3
    assert length(Training(batch_size=4, tokens=tokens // 2), stream) == math.ceil(tokens // 2 * rows / tokens / 4)
    assert length(Training(batch_size=1000), stream) == 1


def test_a_batch_that_cannot_be_shared_is_one_line():
    with pytest.raises(UsageProblem, match="batch_size 4 cannot be shared by 3 processes; make it a multiple of 3"):
        rows_per_process(Training(batch_size=4), Mesh(torch.device("cpu"), 0, 3))


def test_learns_and_records(tmp_path):
    run({**JOB, "steps": 20}, tmp_path)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert lines[-1]["loss"].hex() == closing(tmp_path)["loss"]
    energy = [line["energy_wh"] for line in lines]
    assert energy == sorted(energy)
    assert energy[-1] > 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000018", "step-00000020"]


def test_a_finished_run_run_again_gives_the_same_at_once(tmp_path):
    run(JOB, tmp_path)
    first, lines = closing(tmp_path), (tmp_path / "metrics.jsonl").read_bytes()
    run(JOB, tmp_path)
    assert closing(tmp_path) == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines
    assert "resumed at step 8 of 8" in said(tmp_path)


def test_a_ratio_sets_the_weight_once(tmp_path):
    job = {"steps": 4, "training": {"save_every": 1}}
    run({**job, "turn": {"ratio": 4.1}}, tmp_path / "ratio")
    first = metrics.read(tmp_path / "ratio" / "metrics.jsonl")[0]
    causal, prefix = first["loss/causal/token"], first["loss/prefix/token"]
    assert first["loss"] == pytest.approx(5.1 * causal)
    weight = 4.1 * causal / prefix
    assert f"times the others'; weight {weight:.4g} makes it 4.1" in said(tmp_path / "ratio")
    run({**job, "turn": {"weight": weight}}, tmp_path / "weight")
    for step, line in trail(tmp_path / "weight").items():
        assert float.fromhex(trail(tmp_path / "ratio")[step]["loss"]) == pytest.approx(float.fromhex(line["loss"]))


def test_a_resumed_run_keeps_the_weight_of_its_first_step(tmp_path):
    job = {"training": {"save_every": 1}, "turn": {"ratio": 4.1}}
    run({**job, "steps": 2}, tmp_path)
    run({**job, "steps": 4}, tmp_path)
    assert said(tmp_path).count("makes it 4.1") == 1
    last = metrics.read(tmp_path / "metrics.jsonl")
    weight = [(line["loss"] - line["loss/causal/token"]) / line["loss/prefix/token"] for line in last]
    assert weight == pytest.approx([weight[0]] * 4)


@pytest.mark.parametrize("job", [{"tasks": 1}, {"turn": {"ratio": 2.0, "phase": [0.5, 1.0]}}])
def test_a_ratio_without_a_first_step_to_compare_in_is_refused(tmp_path, job):
    first = {"first": {"ratio": 1.0}} if job.get("tasks") else {}
    with pytest.raises(UsageProblem, match="a ratio compares one task of the first step with the others of it"):
        run({"steps": 4, **job, **first}, tmp_path)


def test_losses_without_a_ratio_are_the_end(tmp_path):
    with pytest.raises(Diverged, match=r"the first losses, .*nan, have no ratio; give the task prefix a weight"):
        run({"steps": 4, "turn": {"ratio": 2.0}, "poison": [0]}, tmp_path)


def test_a_batch_that_is_no_number_is_skipped(tmp_path):
    run({**JOB, "poison": [5]}, tmp_path)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if not math.isfinite(line["loss"])] == [2]
    assert "step 2 (rows 4, 5, 6, 7): loss is nan; the step is skipped" in said(tmp_path)
    assert all(math.isfinite(float.fromhex(line["loss"])) for step, line in trail(tmp_path).items() if step != 2)


def test_three_in_a_row_go_back_once_and_on_with_other_data(tmp_path):
    run({**JOB, "poison": BROKEN}, tmp_path)
    text = said(tmp_path)
    assert "loss is nan, 3 steps in a row (rows 8, 9, 10, 11, 12, 13, 14, 15 and 4 more)" in text
    assert "went back to step 4 and on with the data after the broken rows" in text
    found = trail(tmp_path)
    assert found[5]["rows"] == [EPOCH + 4, EPOCH + 5, EPOCH + 6, EPOCH + 7]
    assert [line["step"] for line in metrics.read(tmp_path / "metrics.jsonl")] == list(range(1, 9))


def test_again_after_going_back_is_the_end_and_names_the_rows(tmp_path):
    with pytest.raises(Diverged) as caught:
        run({**JOB, "poison": [*BROKEN, *(EPOCH + row for row in (4, 8, 12))]}, tmp_path)
    assert caught.value.code == 6
    rows = ", ".join(str(EPOCH + row) for row in (12, 13, 14, 15))
    assert re.search(rf"training diverged at step 7 \(rows {rows}\); lower learning_rate", str(caught.value))
    with pytest.raises(Diverged):  # again, the same way
        run({**JOB, "poison": [*BROKEN, *(EPOCH + row for row in (4, 8, 12))]}, tmp_path)


def test_without_a_checkpoint_to_go_back_to_it_is_the_end(tmp_path):
    with pytest.raises(Diverged, match=r"training diverged at step 3 \(rows 8, 9, 10, 11\)"):
        run({**JOB, "poison": [0, 4, 8], "training": {"save_every": 100}}, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_parameters_stand_still_while_steps_are_skipped(tmp_path):
    run({**JOB, "steps": 2}, tmp_path / "before")
    run({**JOB, "steps": 2, "poison": [0, 4]}, tmp_path / "skipped")
    run({**JOB, "steps": 1, "poison": [0]}, tmp_path / "once")
    state = {name: closing(tmp_path / name)["state"] for name in ("before", "skipped", "once")}
    assert state["skipped"] == state["once"]
    assert state["before"] != state["once"]


def test_memory_that_does_not_suffice_is_said_before_the_first_step(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(probe, "full_batch", full)
    with pytest.raises(ResourceProblem, match="1 x 32 tokens does not fit in memory; set activation_checkpointing"):
        run(JOB, tmp_path)
    assert not trail_exists(tmp_path)


def trail_exists(folder) -> bool:
    return (folder / "trail").exists()


def test_a_rule_ends_the_run_with_its_last_step_saved(tmp_path):
    job = {"steps": 20, "training": {"save_every": 100, "learning_rate": 1e-2}}
    run(job, tmp_path / "whole")
    losses = [line["loss"] for line in metrics.read(tmp_path / "whole" / "metrics.jsonl")]
    bound = (losses[9] + min(losses[:9])) / 2
    at = next(i for i, loss in enumerate(losses, 1) if loss < bound)
    early = {**job, "training": {**job["training"], "stop_when": [f"loss < {bound!r}"]}}
    run(early, tmp_path / "early")
    lines = metrics.read(tmp_path / "early" / "metrics.jsonl")
    assert [line["loss"] for line in lines] == losses[:at]
    assert [path.name for path in (tmp_path / "early" / "checkpoints").iterdir()] == [f"step-{at:08d}"]
    assert "the stage ends here, as stop_when says" in said(tmp_path / "early")
    run(early, tmp_path / "early")  # killed before the stage's end was recorded: nothing more is trained
    assert len(metrics.read(tmp_path / "early" / "metrics.jsonl")) == at


def test_a_rule_of_no_gauge_is_said_before_the_first_step(tmp_path):
    with pytest.raises(UsageProblem, match="nothing here gives a gauge 'kl'; there are grad_norm, loss"):
        run({"steps": 2, "training": {"stop_when": ["kl > 1"]}}, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
