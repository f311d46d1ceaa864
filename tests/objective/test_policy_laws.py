"""Laws 1, 2, 3 and 5 on the policy objective: a preset joins by one line."""

import pytest
import torch

from didact.audit import laws
from didact.audit.toy import toy_acted
from didact.model import lora
from didact.model.settings import Lora
from didact.objective.policy import Dapo, DrGrpo, Expert, Grpo, Gspo, Ppo, ReinforcePp, Rloo
from didact.objective.tokens import causal_reach, next_token
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from tests.toy import toy_answers, toy_model

PRESETS = [Grpo(), DrGrpo(), Dapo(), Rloo(clip=9.0), Gspo(clip=0.1, clip_high=0.2), ReinforcePp(), Expert(), Ppo()]
each = pytest.mark.parametrize("objective", [one.acting(8, 0.9, ()) for one in PRESETS], ids=lambda o: type(o).__name__)


def model_for(objective):
    model = toy_model()
    model.add_heads(objective.heads)
    for weight in model.heads.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def batch(pack=True):
    """Answers with columns near what the toy says, so that not all of it is clipped away."""
    model, rows = toy_model(), next(toy_answers(pack=pack).start(0))[0]
    target, asked = next_token(rows)
    with torch.no_grad():
        near = model.logprob(model.hidden(rows.with_(reach=causal_reach(rows))), target, asked, temperature=0.9)
    return toy_acted(rows, torch.roll(near, 1, 1))


@each
def test_the_laws_hold(objective):
    model, packed = model_for(objective), batch()
    assert (packed.doc.max(1).values > 0).any(), "nothing was packed"
    assert laws.micro_batches(model, objective, packed) < 1e-6
    assert laws.packing(model, objective, packed) < 1e-6
    assert laws.weight_zero(model, objective, batch(pack=False)) < 1e-6


@each
def test_the_laws_hold_with_a_lora(objective):
    model = model_for(objective)
    lora.add(model.net, Lora(rank=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
    assert laws.micro_batches(model, objective, batch()) < 1e-6
    assert laws.weight_zero(model, objective, batch(pack=False)) < 1e-6


@each
def test_the_laws_can_fail(objective):
    model, packed = model_for(objective), batch()
    other = packed.with_(advantage=packed.advantage.roll(1, 1))
    gradients = [laws.step_gradient(model, objective, one, one.size) for one in (packed, other)]
    assert laws.distance(*gradients) > 1e-2


def test_sampled_as_trained():
    model, objective = toy_model(), Grpo()
    prompts = [[5, 6, 7], [8] * 20, [9]]
    outs = Sampler(model, str, [1], slots=2).generate(prompts, Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0))
    for prompt, out in zip(prompts, outs, strict=True):
        assert laws.sampled_as_trained(model, objective, prompt, out.tokens, out.logprobs) < 1e-5
