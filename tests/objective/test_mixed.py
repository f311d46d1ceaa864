"""Masked and causal training of one model as lists of tasks: shares, phases, alternation, a falling mask rate."""

import pytest
import torch

from didact.engine.mesh import Mesh
from didact.engine.step import Source
from didact.engine.train import Loop
from didact.objective import resolve
from didact.recipe.learning import Pretrain
from tests.toy import toy_model, toy_stream, toy_vocabulary

STEPS, ROWS = 40, 16
CAUSAL = {"data": "docs.jsonl", "objective": "causal"}
MASKED = {"data": "docs.jsonl", "objective": {"masked": {"shift": True}}}


class Traced(Loop):
    """Keeps what every step measured."""

    def _record(self, metrics, progress, step, norm, rate, reading):
        super()._record(metrics, progress, step, norm, rate, reading)
        self.taken.append(step)


def trained(folder, *tasks: dict) -> list:
    """The steps of a stage with these tasks, on rows of which every token is trained."""
    stage = Pretrain(data=None, tasks=list(tasks), context=32, batch_size=ROWS, micro_batch_size=ROWS)
    sources = []
    for task in stage.task_list:
        objective = resolve(task.objective.name, task.objective.options).bind(toy_vocabulary())
        stream = toy_stream(batch_size=ROWS, documents=400, prompt=0)
        sources.append(Source(task.name, objective, stream, task))
    loop = Traced(toy_model(), sources, stage, STEPS, folder, Mesh(torch.device("cpu")), lambda line: None)
    loop.taken = []
    loop.run()
    return loop.taken


def turns(steps: list) -> list[set[str]]:
    """Which tasks each step trained."""
    return [{task for task, _ in step.loss} for step in steps]


def test_a_share_of_the_steps_is_masked(tmp_path):
    """One in sixteen in the paper's smallest share; here one in four, the others causal."""
    causal = [{**CAUSAL, "name": f"causal-{i}", "every": 4, "offset": i} for i in range(3)]
    taken = turns(trained(tmp_path, *causal, {**MASKED, "every": 4, "offset": 3}))
    assert [("masked" in turn) for turn in taken] == [step % 4 == 3 for step in range(STEPS)]
    assert all(len(turn) == 1 for turn in taken)


def test_both_in_every_step_with_weights_that_cross(tmp_path):
    steps = trained(tmp_path, {**CAUSAL, "weight": [1.0, 0.25]}, {**MASKED, "weight": [0.25, 1.0]})
    assert all(turn == {"causal", "masked"} for turn in turns(steps))


def test_phases_alternate(tmp_path):
    """AntLM: whole phases of one objective, then of the other."""
    edges = [0.0, 0.25, 0.5, 0.75, 1.0]
    tasks = [
        {**(CAUSAL, MASKED)[i % 2], "name": ("causal", "masked")[i % 2] + f"-{i}", "phase": edges[i : i + 2]}
        for i in range(4)
    ]
    taken = [turn.pop() for turn in turns(trained(tmp_path, *tasks))]
    assert taken == ["causal-0"] * 10 + ["masked-1"] * 10 + ["causal-2"] * 10 + ["masked-3"] * 10


def test_causal_first_then_masked_at_forty_percent(tmp_path):
    masked = {"data": "docs.jsonl", "objective": {"masked": {"rate": 0.4}}}
    steps = trained(tmp_path, {**CAUSAL, "phase": [0, 0.25]}, {**masked, "phase": [0.25, 1]})
    assert turns(steps) == [{"causal"}] * 10 + [{"masked"}] * 30
    assert share(steps[10:]) == pytest.approx(0.4, abs=0.03)


def test_the_mask_rate_falls_over_the_stage(tmp_path):
    """GPT-BERT: 30 % at first, 15 % at last, in a straight line."""
    falling = {"data": "docs.jsonl", "objective": {"masked": {"rate": [0.3, 0.15], "shift": True}}}
    steps = trained(tmp_path, falling)
    parts = [share(steps[at : at + 10]) for at in range(0, STEPS, 10)]
    for found, at in zip(parts, range(0, STEPS, 10), strict=True):
        assert found == pytest.approx(0.3 - 0.15 * (at + 4.5) / STEPS, abs=0.02)
    assert parts == sorted(parts, reverse=True)


def share(steps: list) -> float:
    """Chosen tokens over all that are read; documents begin with a token that ``shift`` cannot choose."""
    chosen = sum(weight for step in steps for weight in step.weight.values())
    return chosen / sum(step.tokens for step in steps)
