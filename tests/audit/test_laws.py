"""Laws 1, 2, 3, 5 and 8 on every objective: a new one joins by one line in OBJECTIVES."""

import pytest
import torch

from didact.audit import laws
from didact.model import lora
from didact.model.settings import Lora
from didact.objective import resolve
from didact.objective.contrast import Contrast
from didact.objective.diffusion import Diffusion
from didact.objective.distil import Distil
from didact.objective.linked import Linked, LinkedMasked, Together
from didact.objective.masked import Masked
from didact.objective.reward import Reward
from didact.objective.tokens import Causal, Prefix
from didact.rng import Rng
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from tests.toy import toy_answers, toy_model, toy_pairs, toy_stream, toy_vocabulary

OBJECTIVES = [
    objective.bind(toy_vocabulary())
    for objective in (
        Causal(),
        Causal(goldfish=4, goldfish_context=2, label_smoothing=1e-3, z_loss=1e-4),
        Prefix(),
        Distil(teacher="self", top=3, temperature=2.0),
        Masked(),
        Masked(shift=True, whole_word=True, span=(1, 3)),
        Diffusion(),
        Diffusion(block=4),
        Diffusion(shift=True),
        Contrast(symmetric=True),
        Contrast(form="triplet", margin=1.0, pool="last", bidirectional=False),
        Contrast(form="cosent", pool="cls", dimensions=[32, 8]),
        Together(),
        Linked(),
        LinkedMasked(),
        *(resolve(name, {}) for name in ("dpo", "ipo", "hinge", "ld_dpo", "pl_dpo", "simpo", "cpo", "orpo")),
        *(resolve(name, {"label_smoothing": 0.01}) for name in ("cdpo", "robust")),
        resolve("kto", {"beta": 1.0}),
        resolve("dpo", {"sft": 0.3}),
        *(resolve("reward", {"form": form}) for form in ("pairs", "ranking")),
        Reward(form="ratings", levels=(0.0, 1.0, 2.0)),
        Reward(debias=("person", "length", "place"), people=(1, 2), margin=0.5),
    )
]


def named(objective):
    return f"{type(objective).__name__}{f'-{objective.form}' if isinstance(objective, Contrast | Reward) else ''}"


each = pytest.mark.parametrize("objective", OBJECTIVES, ids=named)
speaking = pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o.generates], ids=named)


def batch(objective, pack=True):
    return next(stream(objective, batch_size=4, pack=pack).start(0))[0]


def stream(objective, pack=True, **given):
    """Documents, examples of several texts, or prompts with answers, which a reference has read."""
    if objective.judged:
        kto = objective.mismatched
        how = {"levels": 2 if kto else 3, "lent": kto, "top": 0 if objective.taught_by() else None}
        if "longest" in given:  # fifty examples to overfit, a pair of answers each
            pack, how["examples"], how["answers"] = False, given["documents"], (3, 3) if kto else (2, 2)
        given = {name: value for name, value in given.items() if name in ("batch_size", "longest")}
        return toy_answers(pack=pack, **how, **given)
    if not objective.several:
        return toy_stream(pack=pack, top=3, **given)
    given = {name: value for name, value in given.items() if name in ("batch_size", "longest", "examples")}
    if objective.joined:
        return toy_pairs(scored=3, **given)
    scored = objective.form == "cosent"
    return toy_pairs(negatives=0 if scored else 2, scored=2 * scored, **given)


def model_for(objective, **fields):
    """A model with the objective's heads, which say something."""
    model = toy_model(**fields)
    model.add_heads(objective.heads)
    for weight in model.heads.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


@each
def test_gradient_does_not_depend_on_micro_batches(objective):
    assert laws.micro_batches(model_for(objective), objective, batch(objective)) < 1e-6


@each
def test_packed_equals_unpacked(objective):
    packed = batch(objective)
    assert (packed.doc.max(1).values > 0).any(), "nothing was packed"
    assert laws.packing(model_for(objective), objective, packed) < 1e-6


@each
def test_weight_zero_changes_nothing(objective):
    assert laws.weight_zero(model_for(objective), objective, batch(objective, pack=False)) < 1e-6


@each
def test_the_laws_hold_with_a_lora(objective):
    model = model_for(objective)
    lora.add(model.net, Lora(rank=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first, and then A has no gradient
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
    packed = batch(objective)
    assert laws.micro_batches(model, objective, packed) < 1e-6
    assert laws.packing(model, objective, packed) < 1e-6
    assert laws.weight_zero(model, objective, batch(objective, pack=False)) < 1e-6


@each
def test_the_laws_can_fail(objective):
    model, made = model_for(objective), laws.Prepared(objective)
    ready = laws.prepared(model, objective, batch(objective))
    shifted = laws.widened(ready) if objective.several and not objective.joined else laws.unpacked(ready)
    shifted["token"][0, 0] += 1
    gradients = [laws.step_gradient(model, made, one, one.size) for one in (ready, shifted)]
    assert laws.distance(*gradients) > 1e-4


@each
def test_overfits_fifty_examples(objective):
    model = model_for(objective, hidden_size=64, intermediate_size=128)
    rows = 50 if objective.several or objective.judged else 64
    examples = stream(objective, context=128, batch_size=rows, documents=50, longest=4 if objective.judged else 12)
    assert len(examples.epoch(0)) <= 64
    ready = objective.prepare(model, next(examples.start(0))[0], Rng(0, 0))
    minimised = {term: weight for term, weight in ready.weight.items() if term not in objective.gauges}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        losses = objective.loss(model, ready)
        loss = torch.stack([(losses[term] * w).sum() / w.sum() for term, w in minimised.items()]).sum()
        if loss.item() < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {loss.item():.3f}")


@speaking
def test_sampled_as_trained(objective):
    model = toy_model()
    model.served = objective.served()
    prompts = [[5, 6, 7], [8] * 20, [9, 10]]
    outs = Sampler(model, str, [1], slots=2).generate(prompts, Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0))
    for prompt, out in zip(prompts, outs, strict=True):
        assert laws.sampled_as_trained(model, objective, prompt, out.tokens, out.logprobs) < 1e-5
