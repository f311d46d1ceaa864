"""The policy objective on given log-probabilities: against formulas, and TRL's losses and gradients (law 7)."""

from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from didact.batch import Batch
from didact.data.stack import stacked
from didact.errors import UsageProblem
from didact.objective import resolve
from didact.objective.advantage import centred, others, standardised
from didact.objective.policy import Dapo, DrGrpo, Expert, Grpo, Gspo, Policy, Ppo, ReinforcePp, Rloo
from didact.objective.tokens import next_token
from didact.rng import Rng
from didact.rollout.decoder import Completion
from didact.rollout.rows import actions, placed, row

PROMPTS, GROUP, LONGEST = 3, 4, 6


@dataclass
class Told:
    """Stands for a model whose log-probabilities and values are given."""

    logp: torch.Tensor
    worth: torch.Tensor

    def hidden(self, batch):
        return batch.token

    def logprob(self, hidden, target, where, **how):
        return self.logp * where

    def value(self, batch, hidden):
        return self.worth


class Scene:
    """Answers of 1 to LONGEST tokens; what is [N, L] is of actions, what is [B, T] stands in rows."""

    def __init__(self, seed=0, far=0.3):
        draw = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, LONGEST + 1, (PROMPTS, GROUP), generator=draw)
        rows = [
            row([5, 6, 7][: 1 + p], [Completion(0, [8] * n, [0.0] * n) for n in lengths[p].tolist()])
            for p in range(PROMPTS)
        ]
        batch = stacked(rows)
        self.where = actions(batch)
        self.mask = self.where >= 0
        count, width = self.where.shape
        self.old = -torch.rand(count, width, generator=draw) * 2
        self.now = (self.old + far * torch.randn(count, width, generator=draw)).requires_grad_()
        self.ref = self.old + far * torch.randn(count, width, generator=draw)
        self.value, self.value_now = torch.randn(2, count, width, generator=draw)
        self.score = torch.randn(PROMPTS, GROUP, generator=draw)
        self.lengths = lengths
        self.batch = batch

    def rows(self, objective, advantage, gain=None, score=None, finished=None, beta=None) -> tuple[Told, Batch]:
        """What the objective sees, and a model that says ``now``."""
        columns = {"behaviour": self.old, "reference": self.ref, "advantage": advantage, "value_old": self.value}
        columns["return"] = advantage if gain is None else gain
        batch = self.batch.with_(**{name: placed(x * self.mask, self.where, self.batch) for name, x in columns.items()})
        batch = batch.with_(
            score=self.score if score is None else score,
            finished=torch.ones(PROMPTS, GROUP) if finished is None else finished,
            beta=torch.full((PROMPTS,), objective.beta if beta is None else beta),
            distinct=torch.ones(PROMPTS, GROUP),
            mismatch=torch.zeros(PROMPTS, GROUP),
            explained_variance=torch.zeros(PROMPTS, GROUP),
        )
        place = torch.zeros(batch.token.shape)
        rows = torch.arange(PROMPTS).repeat_interleave(GROUP)[:, None].expand_as(self.where)[self.mask]
        spot = rows, self.where[self.mask] - 1  # where a token is predicted
        return Told(place.index_put(spot, self.now[self.mask]), place.index_put(spot, self.value_now[self.mask])), batch

    def loss(self, objective, advantage, **more) -> torch.Tensor:
        """What the engine would minimise."""
        objective = objective.acting(LONGEST, 1.0, ())
        model, batch = self.rows(objective, advantage, **more)
        ready = objective.prepare(model, batch, Rng(0, 0))
        losses = objective.loss(model, ready)
        assert losses.keys() == ready.weight.keys()
        terms = ready.weight.keys() - objective.gauges
        return sum((losses[t] * ready.weight[t]).sum() / ready.weight[t].sum() for t in terms)

    def credit(self, objective, value=None):
        empty = torch.zeros_like(self.old)
        return objective.credit(
            self.score, self.old, self.ref, empty if value is None else value, self.mask, objective.beta
        )


def trainer(kind, loss_type, scene, **settings):
    """A stand-in for TRL's trainer that has just the loss, and is told the log-probabilities."""
    trl = pytest.importorskip("trl")
    own = MagicMock()
    own._get_per_token_logps_and_entropies = lambda *a, **k: (scene.now, torch.zeros_like(scene.old), None)
    own.accelerator.gather = lambda x: x
    own.accelerator.reduce = lambda x, **k: x
    own.accelerator.num_processes = own.current_gradient_accumulation_steps = 1
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    plain = {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token"}
    plain |= {"use_vllm": False, "_entropy_bonus_enabled": False, "aux_loss_enabled": False, "beta": 0.0}
    plain |= {"epsilon_low": 0.2, "epsilon_high": 0.2, "max_completion_length": LONGEST, "args": args}
    for name, value in (plain | settings | {"loss_type": loss_type}).items():
        setattr(own, name, value)
    return getattr(trl, kind)._compute_loss, own


def theirs(scene, kind, loss_type, advantage, **settings):
    compute, own = trainer(kind, loss_type, scene, **settings)
    ids = torch.zeros(len(scene.old), 1, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids + 1,
        "completion_ids": torch.zeros_like(scene.where),
        "completion_mask": scene.mask.long(),
        "advantages": advantage,
        "old_per_token_logps": scene.old,
        "old_logps": (scene.old * scene.mask).sum(1),
        "ref_per_token_logps": scene.ref,
        "num_items_in_batch": scene.mask.sum(),
    }
    return compute(own, None, inputs)


SAME = {
    "grpo": (Grpo(beta=0.04), standardised, "GRPOTrainer", "grpo", {"beta": 0.04}),
    "grpo without KL": (Grpo(beta=0.0), standardised, "GRPOTrainer", "grpo", {}),
    "dr_grpo": (DrGrpo(), centred, "GRPOTrainer", "dr_grpo", {}),
    "dapo": (Dapo(drop_equal=False), standardised, "GRPOTrainer", "dapo", {"epsilon_high": 0.28}),
    "gspo": (
        Gspo(clip=0.03, clip_high=0.04),
        standardised,
        "GRPOTrainer",
        "grpo",
        {"importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
    ),
    "rloo": (Rloo(), others, "RLOOTrainer", "", {}),
}


@pytest.mark.parametrize("name", SAME)
def test_loss_and_gradient_are_those_of_trl(name):
    objective, base, kind, loss_type, settings = SAME[name]
    scene = Scene()
    worth = base(scene.score).flatten()
    found = scene.loss(objective, worth[:, None].expand_as(scene.old))
    expected = theirs(scene, kind, loss_type, worth, **settings)
    gradients = [torch.autograd.grad(loss, scene.now)[0] * scene.mask for loss in (found, expected)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
    assert gradients[0].abs().max() > 1e-3


def test_advantages_of_each_preset():
    scene = Scene()
    kl = ((scene.old - scene.ref) * scene.mask).sum(1).view(PROMPTS, GROUP)
    wide = scene.mask.float()
    expected = {
        Grpo(): standardised(scene.score),
        DrGrpo(): centred(scene.score),
        Rloo(beta=0.1): others(scene.score - 0.1 * kl),
    }
    for objective, worth in expected.items():
        torch.testing.assert_close(scene.credit(objective)[0], worth.flatten()[:, None] * wide)


def test_expert_iteration_is_fine_tuning_on_the_best_answers():
    """The gradient of its first step is that of -log p of the best answer of each group, alone."""
    scene = Scene(far=0.0)
    advantage = scene.credit(Expert())[0]
    (found,) = torch.autograd.grad(scene.loss(Expert(), advantage), scene.now)
    best = torch.nn.functional.one_hot(scene.score.argmax(1), GROUP).flatten()[:, None].bool() & scene.mask
    expected = -best.float() / scene.mask.sum(1, keepdim=True) / (PROMPTS * GROUP)
    torch.testing.assert_close(found * scene.mask, expected, rtol=0, atol=1e-6)


def test_reinforce_pp_whitens_rewards_less_the_kl_to_come():
    scene = Scene()
    found = scene.credit(ReinforcePp(beta=0.1, whiten=False))[0]
    for number in range(len(found)):
        length = int(scene.mask[number].sum())
        cost = 0.1 * (scene.old - scene.ref)[number, :length]
        expected = scene.score.flatten()[number] - torch.stack([cost[t:].sum() for t in range(length)])
        torch.testing.assert_close(found[number, :length], expected)
    white = scene.credit(ReinforcePp(beta=0.1))[0][scene.mask]
    assert abs(float(white.mean())) < 1e-6
    assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-5)


def test_ppo_by_hand():
    """GAE token by token, whitened; the clipped surrogate and half the greater of two squares, over all tokens."""
    scene, objective = Scene(), Ppo(beta=0.1, lam=0.9, gamma=0.97, value_clip=0.2, vf=0.1)
    advantage, gain = scene.credit(objective, scene.value * scene.mask)
    raw = torch.zeros_like(scene.old)
    for number in range(len(raw)):
        length = int(scene.mask[number].sum())
        reward = -0.1 * (scene.old - scene.ref)[number, :length]
        reward[-1] += scene.score.flatten()[number]
        value = [*scene.value[number, :length].tolist(), 0.0]
        ahead = 0.0
        for t in reversed(range(length)):
            ahead = float(reward[t]) + 0.97 * value[t + 1] - value[t] + 0.97 * 0.9 * ahead
            raw[number, t] = ahead
    inside = raw[scene.mask]
    white = (raw - inside.mean()) / (inside.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(advantage[scene.mask], white[scene.mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gain[scene.mask], (raw + scene.value)[scene.mask], rtol=1e-4, atol=1e-5)
    ratio = (scene.now - scene.old).exp()
    surrogate = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)[scene.mask].mean()
    near = scene.value + (scene.value_now - scene.value).clamp(-0.2, 0.2)
    error = torch.maximum((scene.value_now - gain) ** 2, (near - gain) ** 2)[scene.mask].mean() / 2
    torch.testing.assert_close(scene.loss(objective, advantage, gain=gain), surrogate + 0.1 * error)


def test_groups_without_signal_and_unfinished_answers_can_be_left_out():
    scene = Scene()
    worth = standardised(scene.score).flatten()[:, None].expand_as(scene.old)
    score = scene.score.clone()
    score[1] = 0.5
    finished = torch.ones(PROMPTS, GROUP)
    finished[0, 2] = 0
    kept = torch.ones(PROMPTS, GROUP, dtype=torch.bool)
    kept[1], kept[0, 2] = False, False
    ratio = (scene.now - scene.old).exp()
    surrogate = -torch.minimum(ratio * worth, ratio.clamp(0.8, 1.28) * worth)
    expected = surrogate[scene.mask & kept.flatten()[:, None]].mean()
    torch.testing.assert_close(scene.loss(Dapo(), worth, score=score, finished=finished), expected)
    everything = scene.loss(Dapo(drop_equal=False, drop_unfinished=False), worth, score=score, finished=finished)
    torch.testing.assert_close(everything, surrogate[scene.mask].mean())


def test_what_is_measured():
    scene, objective = Scene(), Policy(beta=0.1).acting(LONGEST, 1.0, ())
    worth = standardised(scene.score).flatten()[:, None].expand_as(scene.old)
    score = scene.score.clone()
    score[1] = 0.5
    model, batch = scene.rows(objective, worth, score=score)
    ready = objective.prepare(model, batch, Rng(0, 0))
    losses = objective.loss(model, ready)
    found = {name: float((losses[name] * ready.weight[name]).sum() / ready.weight[name].sum()) for name in losses}
    gap = (scene.now - scene.old).detach()[scene.mask]
    apart = (scene.ref - scene.old)[scene.mask]
    expected = {
        "kl": (apart.exp() - 1 - apart).mean(),
        "kl_answer": (apart.exp() - 1 - apart).sum() / (PROMPTS * GROUP),
        "approx_kl": gap.square().mean() / 2,
        "entropy": -scene.old[scene.mask].mean(),
        "ratio": gap.exp().mean(),
        "length": scene.lengths.float().mean(),
        "no_signal": torch.tensor(1 / 3),
        "reward": score.mean(),
        "finished": torch.tensor(1.0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name
    out = torch.where(worth[scene.mask] > 0, gap.exp() > 1.2, gap.exp() < 0.8).float().mean()
    assert found["clip_fraction"] == pytest.approx(float(out))
    assert 0 < found["clip_fraction"] < 1


@pytest.mark.parametrize("ratio", ["token", "mean", "whole"])
def test_a_policy_that_is_far_off_gives_numbers(ratio):
    """A ratio of infinity times an advantage of zero would be none."""
    scene, objective = Scene(), Policy(ratio=ratio).acting(LONGEST, 1.0, ())
    scene.old = scene.old - 200 * scene.mask
    worth = torch.zeros_like(scene.old)
    worth[1:] = -1.0
    model, batch = scene.rows(objective, worth)
    ready = objective.prepare(model, batch, Rng(0, 0))
    assert objective.loss(model, ready)["policy"].isfinite().all()


def test_without_a_baseline_of_the_group_equal_rewards_are_no_lack_of_signal():
    """A critic, or a reward that has no baseline, learns from one answer to a prompt as well."""
    scene = Scene()
    for objective, silent in ((Policy(), 1), (Policy(baseline="none"), 0)):
        objective = objective.acting(LONGEST, 1.0, ())
        model, batch = scene.rows(objective, scene.old, score=torch.full_like(scene.score, 0.5))
        assert objective.prepare(model, batch, Rng(0, 0)).no_signal.unique().tolist() == [silent]


def test_an_answer_of_no_score_has_no_say():
    scene = Scene()
    worth = standardised(scene.score).flatten()[:, None].expand_as(scene.old)
    score = scene.score.clone()
    score[0, 0] = torch.nan
    found = scene.loss(Policy(), worth, score=score)
    (gradient,) = torch.autograd.grad(found, scene.now)
    assert torch.isfinite(gradient).all()
    assert not gradient[0].any()
    assert gradient[1].any()


def test_scores_of_answers_without_an_end():
    score, length = torch.zeros(1, 3), torch.tensor([[3, 5, 6]])
    finished = torch.tensor([[True, True, False]])
    assert Policy(unfinished=-1.0).acting(6, 1.0, ()).scored(score, length, finished).tolist() == [[0, 0, -1]]
    assert Policy(overlong=2).acting(6, 1.0, ()).scored(score, length, finished).tolist() == [[0, -0.5, -1]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": "grup"}, "baseline is 'grup'"),
        ({"mean": "token"}, "mean is 'token'"),
        ({"clip": -0.1}, "below zero"),
        ({"target_kl": 6.0}, "from a beta above 0"),
        ({"temperature": 2.0}, "has no option 'temperature'"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(UsageProblem, match=says):
        resolve("policy", options)


def test_a_model_that_reads_prompts_both_ways_is_refused():
    with pytest.raises(UsageProblem, match="bidirectional_prompt"):
        Grpo().told({"bidirectional_prompt": True})


def test_presets_are_options_of_one_objective():
    assert resolve("grpo", {"beta": 0.1}) == Grpo(beta=0.1)
    assert isinstance(resolve("ppo", {}), Policy)
    assert np.isclose(resolve("dapo", {}).high, 0.28)


def test_the_first_prediction_of_an_answer_stands_in_its_own_branch():
    batch = Scene().batch
    assert torch.equal(next_token(batch)[1].roll(1, 1) > 0, batch.trained)
