"""The model's own answers as a stream: what the rows say, that they come again, and law 5."""

import pytest
import torch

from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.errors import UsageProblem
from didact.model import lora
from didact.model.settings import Lora
from didact.objective.advantage import standardised
from didact.objective.policy import Grpo, Policy, Ppo, ReinforcePp, Rloo
from didact.objective.tokens import causal_reach, next_token
from didact.rng import Rng
from didact.rollout.experience import Experience
from tests.rollout.scene import STOP, toy_experience
from tests.toy import toy_model


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logprobs(model, batch, temperature=1.0):
    target, asked = next_token(batch)
    with torch.no_grad():
        found = model.logprob(
            model.hidden(batch.with_(reach=causal_reach(batch))), target, asked, temperature=temperature
        )
    return torch.roll(found, 1, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_was_sampled_is_what_training_sees(tmp_path, temperature):
    model = toy_model()
    stream = toy_experience(tmp_path, Grpo(), model, temperature=temperature)
    for _, (batch, _) in zip(range(3), stream.start(0), strict=False):
        assert batch.trained.any()
        torch.testing.assert_close(batch.behaviour, logprobs(model, batch, temperature), rtol=0, atol=1e-5)
        torch.testing.assert_close(batch.reference, batch.behaviour, rtol=0, atol=1e-5)
        assert float(batch.mismatch.max()) < 1e-5


def test_rows_hold_each_prompt_once_and_rewards_by_name(tmp_path):
    stream = toy_experience(tmp_path, Grpo())
    batch = next(stream.start(0))[0]
    asked = [stream._asked(index).tokens for index in range(4)]
    for row, number in enumerate(batch.row.tolist()):
        shared = batch.token[row][(batch.answer[row] < 0) & (batch.doc[row] >= 0)].tolist()
        assert shared == list(asked[number][:-1])
        for k in range(3):
            branch = batch.answer[row] == k
            assert int(batch.token[row][branch][0]) == asked[number][-1]
            said = batch.token[row][branch & batch.trained[row]].tolist()
            assert bool(batch.finished[row, k]) == (said[-1] == STOP)
            text = [token for token in said if token != STOP]
            even = sum(token % 2 == 0 for token in text) / max(len(text), 1)
            assert float(batch["reward/even"][row, k]) == pytest.approx(even)
            assert float(batch["reward/length"][row, k]) == len(text)
    torch.testing.assert_close(batch.score, batch["reward/even"])  # a weight of 0 is measured only


def test_advantages_are_the_groups(tmp_path):
    batch = next(toy_experience(tmp_path, Grpo()).start(0))[0]
    worth = standardised(batch.score)
    for row in range(batch.size):
        for k in range(3):
            found = batch.advantage[row][(batch.answer[row] == k) & batch.trained[row]]
            torch.testing.assert_close(found, worth[row, k].expand_as(found))
    assert not batch.advantage[~batch.trained].any()


def test_a_phase_is_handed_out_once_a_pass_and_then_the_next_is_drawn(tmp_path):
    stream = toy_experience(tmp_path, Grpo(), epochs=2)
    rows = [batch.row.tolist() for _, (batch, _) in zip(range(8), stream.start(0), strict=False)]
    passes = [sorted(rows[i] + rows[i + 1]) for i in range(0, 8, 2)]
    assert passes == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
    assert rows[:2] != rows[2:4] or rows[4:6] != rows[6:]


@pytest.mark.parametrize("objective", [Grpo(), Ppo(target_kl=1.0), ReinforcePp()], ids=lambda o: type(o).__name__)
def test_it_goes_on_anywhere(tmp_path, objective):
    """From a finished phase on the disk, or drawn again; in other batches it would not be the same."""
    model = toy_model()
    whole = toy_experience(tmp_path / "whole", objective, model, epochs=2)
    found = [batch for _, (batch, _) in zip(range(8), whole.start(0), strict=False)]
    for cursor in range(8):
        again = toy_experience(tmp_path / "whole", objective, model, epochs=2)
        assert same(next(again.start(cursor))[0], found[cursor])
    anew = toy_experience(tmp_path / "anew", objective, model, epochs=2)
    assert all(same(batch, one) for (batch, _), one in zip(anew.start(0), found, strict=False))


def test_a_finished_phase_is_not_drawn_again(tmp_path, monkeypatch):
    stream = toy_experience(tmp_path, Grpo())
    first = next(stream.start(0))[0]
    monkeypatch.setattr(Experience, "_drawn", lambda *_: pytest.fail("drawn again"))
    assert same(next(toy_experience(tmp_path, Grpo()).start(0))[0], first)


def test_a_damaged_phase_is_drawn_again_and_said(tmp_path):
    said: list[str] = []
    first = next(toy_experience(tmp_path, Grpo()).start(0))[0]
    path = tmp_path / "rollouts" / "phase-00000000" / "columns.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    assert same(next(toy_experience(tmp_path, Grpo(), say=said.append).start(0))[0], first)
    assert "drawn again" in said[0]


def test_a_sampler_that_is_off_stops_the_run(tmp_path, monkeypatch):
    from didact.rollout import experience

    right = experience.answers

    def off(*given):
        outs = right(*given)
        for each in outs:
            each[0].logprobs[0] += 0.01
        return outs

    monkeypatch.setattr(experience, "answers", off)
    with pytest.raises(UsageProblem, match=r"the sampler's log-probabilities are 0\.01"):
        next(toy_experience(tmp_path, Grpo()).start(0))


def test_with_a_lora_the_reference_is_the_model_without_it(tmp_path):
    start, model = toy_model(), toy_model()
    lora.add(model.net, Lora(rank=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
    stream = toy_experience(tmp_path, Grpo(), model)
    assert stream.cast.start is None
    batch = next(stream.start(0))[0]
    torch.testing.assert_close(batch.reference, logprobs(start, batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.behaviour, logprobs(model, batch), rtol=0, atol=1e-5)
    assert (batch.reference - batch.behaviour).abs().max() > 0.1


def test_the_reference_stays_where_the_stage_began(tmp_path):
    start, model = toy_model(), toy_model()
    stream = toy_experience(tmp_path, Grpo(), model)
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    batch = next(stream.start(0))[0]
    torch.testing.assert_close(batch.reference, logprobs(start, batch), rtol=0, atol=1e-5)
    assert (batch.reference - batch.behaviour).abs().max() > 0.1


@pytest.mark.parametrize("objective", [Grpo(), Rloo(), Ppo(), ReinforcePp()], ids=lambda o: type(o).__name__)
def test_the_first_step_is_reinforce(tmp_path, objective):
    """Ratio 1, nothing clipped, and the gradient that of -A log p (law 7)."""
    model = toy_model()
    objective = type(objective)(**({"beta": 0.0} if objective.kl == "loss" else {}))
    stream = toy_experience(tmp_path, objective, model, prompts=12)
    batch = next(stream.start(0))[0]
    acting = stream.objective
    task = Task("policy", acting, iter([(batch, 1)]))
    step = take_step(model, [task], Mesh(torch.device("cpu")), Rng(0, 0), 1)
    assert step.gauge["policy", "ratio"] == pytest.approx(1, abs=1e-5)
    assert step.gauge["policy", "clip_fraction"] == 0
    assert step.gauge["policy", "approx_kl"] < 1e-10
    found = {name: weight.grad.clone() for name, weight in model.net.named_parameters()}
    model.zero_grad()
    target, asked = next_token(batch)
    logp = model.logprob(model.hidden(batch.with_(reach=causal_reach(batch))), target, asked)
    worth = torch.roll(batch.advantage, -1, 1) * asked
    if objective.mean == "tokens":
        loss = -(worth * logp).sum() / asked.sum()
    else:
        sizes = torch.stack([((batch.answer == k) * asked).sum(1) for k in range(3)], 1)
        size = sizes.gather(1, batch.answer.clamp(min=0)) if objective.ratio == "token" else 1.0
        loss = -(worth * logp / size).sum() / sizes.numel()
    loss.backward()
    for name, weight in model.net.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_phases_and_steps_must_fit(tmp_path):
    with pytest.raises(UsageProblem, match="a phase of 4 prompts cannot be shared by steps of 3"):
        toy_experience(tmp_path, Grpo(), batch_size=3)


def test_beta_follows_its_target(tmp_path):
    assert Policy(beta=0.1, kl="reward", target_kl=2.0, horizon=100).adapted(0.1, 4.0, 50) == pytest.approx(0.11)
    assert Policy(beta=0.1).adapted(0.1, 4.0, 50) == 0.1
    model = toy_model()
    stream = toy_experience(tmp_path, Ppo(beta=0.1, target_kl=1e-3, horizon=12), model)
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    betas = [float(batch.beta[0]) for _, (batch, _) in zip(range(6), stream.start(0), strict=False)]
    assert betas == pytest.approx([0.1, 0.1, 0.12, 0.12, 0.144, 0.144], rel=1e-5) or betas[2] == pytest.approx(0.08)
