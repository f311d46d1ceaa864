"""A critic that begins as the reward model knows from the first step on what answers will be worth."""

from functools import cache
from itertools import islice

import pytest
import torch

from didact.audit import laws
from didact.batch import Batch
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.model.model import Model
from didact.objective.advantage import explained_variance
from didact.objective.policy import Ppo
from didact.rng import Rng
from tests.rollout.scene import toy_critic, toy_experience
from tests.toy import VOCABULARY, toy_model

PPO = Ppo(beta=0.0, vf=1.0, value_clip=10.0)


@cache
def taught() -> dict[str, torch.Tensor]:
    """What a reward model learns from the share of even tokens of whole texts, the reward of the scene below."""
    critic, draw = toy_critic(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(400):
        token = torch.randint(2, VOCABULARY, (32, 12), generator=draw)
        length = torch.randint(2, 13, (32,), generator=draw)
        index = torch.arange(12).expand(32, -1)
        share = ((token % 2 == 0) & (index < length[:, None])).sum(1) / length
        batch = Batch({"token": token, "position": index, "doc": torch.zeros_like(index), "reach": index})
        said = critic.value(batch).gather(1, length[:, None] - 1)[:, 0]  # at the last token, as a reward model is read
        optimizer.zero_grad()
        (said - share).square().mean().backward()
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in critic.state_dict().items()}


def actor(with_critic: bool) -> Model:
    model = toy_model()
    if with_critic:
        critic = toy_critic()
        critic.load_state_dict(taught())
        model.add_critic(critic)
    return model


def learned(folder, model: Model, steps: int = 6) -> tuple[list[float], list[float]]:
    """The loss of the critic and how much it explained, step by step."""
    stream = toy_experience(folder, PPO, model, prompts_a_phase=8, batch_size=8, group=4, reward="whole")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    task, mesh = Task("policy", stream.objective, stream.start(0)), Mesh(torch.device("cpu"))
    found = []
    for number in range(steps):
        step = take_step(model, [task], mesh, Rng(0, number), 8)
        found.append((step.loss["policy", "value"], step.gauge["policy", "explained_variance"]))
        optimizer.step()
        optimizer.zero_grad()
    losses, explained = zip(*found, strict=True)
    return list(losses), list(explained)


def test_it_explains_more_and_loses_less_than_a_head_from_zero(tmp_path):
    loss, explained = learned(tmp_path / "critic", actor(True))
    zero_loss, zero_explained = learned(tmp_path / "zero", actor(False))
    assert zero_explained[0] == 0
    assert min(explained) > max(zero_explained)
    assert sum(explained) / len(explained) > 0.2
    assert loss[0] < 0.2 * zero_loss[0]
    assert sum(loss) < 0.2 * sum(zero_loss)


def test_explained_variance_by_hand():
    gain = torch.tensor([[1.0, 3.0, 9.0], [5.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert explained_variance(gain, gain, mask) == 1
    assert explained_variance(gain + 7, gain, mask) == 1
    assert explained_variance(torch.zeros(2, 3), gain, mask) == 0
    value = torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 0.0]])  # off by 0, 0 and 3: variance 2 of 8/3
    assert explained_variance(value, gain, mask) == pytest.approx(0.25)
    assert explained_variance(value, torch.ones(2, 3), mask) == 0


def test_values_are_the_critics(tmp_path):
    model = actor(True)
    assert "value" not in model.heads
    batch = next(toy_experience(tmp_path, PPO, model).start(0))[0]
    read = batch.with_(reach=torch.arange(batch.token.shape[1]).expand_as(batch.token))
    assert model.critic is not None
    with torch.no_grad():
        expected = torch.roll(model.critic.value(read), 1, 1) * batch.trained
    torch.testing.assert_close(batch.value_old, expected, rtol=0, atol=1e-5)
    assert batch.value_old.abs().max() > 0.1


def test_the_policy_and_the_critic_learn_apart(tmp_path):
    """The value's loss moves the critic alone, the policy's the policy alone; the reference has no critic."""
    model = actor(True)
    stream = toy_experience(tmp_path, PPO, model)
    assert stream.cast.start is not None
    assert stream.cast.start.critic is None
    batch = next(stream.start(0))[0]
    ready = stream.objective.prepare(model, batch, Rng(0, 0))
    losses = stream.objective.loss(model, ready)
    for term, mine in (("value", "critic."), ("policy", "net.")):
        model.zero_grad()
        (losses[term] * ready.weight[term]).sum().backward(retain_graph=True)
        moved = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
        assert moved
        assert all(name.startswith(mine) for name in moved)


def test_the_laws_hold(tmp_path):
    model = actor(True)
    (batch, _), *_ = islice(toy_experience(tmp_path, PPO, model, batch_size=4).start(0), 1)
    objective = PPO.acting(6, 1.0, ("even", "length"))
    assert laws.micro_batches(model, objective, batch) < 1e-6
    assert laws.packing(model, objective, batch) < 1e-6
    assert laws.weight_zero(model, objective, batch) < 1e-6
