"""The step against transformers' own loss, and against itself cut and shared differently."""

import pytest
import torch

from didact.audit import laws
from didact.engine.mesh import Mesh
from didact.engine.step import Interrupted, Task, take_step
from didact.objective.tokens import Causal, Prefix
from didact.rng import Rng
from tests.toy import toy_model, toy_stream

MESH = Mesh(torch.device("cpu"))


def tasks(*weights, pack=True):
    return [
        Task(f"task{i}", [Causal(), Prefix()][i % 2], toy_stream(seed=i, pack=pack).start(0), weight)
        for i, weight in enumerate(weights)
    ]


def test_loss_and_gradient_equal_transformers_own():
    model = toy_model()
    batch = next(toy_stream(batch_size=6, pack=False).start(0))[0]
    step = take_step(model, [Task("t", Causal(), iter([(batch, 1)]))], MESH, Rng(0, 0), 2)
    ours = laws.gradient(model)
    model.net.set_attn_implementation("eager")
    labels = torch.where(batch.trained, batch.token, -100)
    output = model.net(input_ids=batch.token, attention_mask=(batch.doc >= 0).long(), labels=labels, use_cache=False)
    output.loss.backward()
    assert step.loss["t", "token"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert laws.distance(laws.gradient(model), ours) < 1e-5


def test_a_mixture_is_the_weighted_sum_of_its_tasks():
    model = toy_model()
    take_step(model, tasks(1.0, 0.3), MESH, Rng(0, 0), 2)
    both = laws.gradient(model)
    parts = []
    for i, weight in enumerate((1.0, 0.3)):
        take_step(model, [tasks(1.0, 1.0)[i]], MESH, Rng(0, 0), 4)
        parts.append({name: weight * g for name, g in laws.gradient(model).items()})
    assert laws.distance(both, {name: parts[0][name] + parts[1][name] for name in both}) < 1e-6


def test_reports_the_mean_loss_and_the_tokens_read():
    model = toy_model()
    one = tasks(1.0)
    batch = next(toy_stream().start(0))[0]
    step = take_step(model, one, MESH, Rng(0, 0), 1)
    assert step.tokens == int((batch.doc >= 0).sum())
    assert step.rows == batch.row.tolist()
    assert step.total(one) == step.loss["task0", "token"]


def test_interrupted_between_micro_batches_changes_nothing():
    model = toy_model()
    before = [p.clone() for p in model.parameters()]
    calls = iter([False, True])
    with pytest.raises(Interrupted):
        take_step(model, tasks(1.0), MESH, Rng(0, 0), 1, lambda: next(calls))
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
