"""Distillation: the equation with full probabilities, and the student that is its own teacher."""

import pytest
import torch
from torch.nn import functional as F

from didact.errors import UsageProblem
from didact.objective import resolve
from didact.objective.distil import Distil
from didact.rng import Rng
from tests.toy import VOCABULARY, toy_model, toy_stream


def logits(model, batch, objective):
    ready = objective.prepare(model, batch, Rng(0, 0))
    here = ready.weight["teacher"].bool()
    return model.logits(model.hidden(ready))[here], ready, here


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 2.0), (1.0, 1.0)])
def test_is_the_equation_of_hinton_and_others(share, temperature):
    """(1 - a) CE + a T^2 KL, with torch's KLDivLoss."""
    teacher, student = toy_model(seed=1), toy_model()
    batch = next(toy_stream(batch_size=3, top=VOCABULARY).start(0))[0]
    objective = Distil(teacher="self", top=VOCABULARY, temperature=temperature, share=share)
    theirs, ready, here = logits(teacher, batch, objective)
    log_p, token = (theirs.detach() / temperature).log_softmax(-1).sort(descending=True)
    ready["teacher_token"][here], ready["teacher_logprob"][here] = token, log_p
    x = logits(student, batch, objective)[0]
    losses = objective.loss(student, ready)
    kl = torch.nn.KLDivLoss(reduction="none", log_target=True)
    wanted = kl((x / temperature).log_softmax(-1), (theirs / temperature).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(losses["teacher"][here], share * temperature**2 * wanted, rtol=1e-4, atol=1e-5)
    assert ("token" in losses) == ("token" in ready.weight) == (share < 1)
    if share < 1:
        nats = F.cross_entropy(x, ready.target[here], reduction="none")
        torch.testing.assert_close(losses["token"][here], (1 - share) * nats, rtol=1e-5, atol=1e-5)


def test_its_own_teacher_has_nothing_to_say():
    model, batch = toy_model(), next(toy_stream(batch_size=3, top=4).start(0))[0]
    objective = Distil(teacher="self", top=4, share=1.0)
    x, ready, here = logits(model, batch, objective)
    log_p, token = x.detach().log_softmax(-1).topk(4)
    ready["teacher_token"][here], ready["teacher_logprob"][here] = token, log_p
    loss = objective.loss(model, ready)["teacher"]
    assert loss.abs().max() < 1e-5
    gradients = torch.autograd.grad(loss.sum(), list(model.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-4


def test_its_mistakes():
    for options, fragment in [
        ({}, "no teacher"),
        ({"teacher": "self", "top": 0}, "top 0"),
        ({"teacher": "self", "temperature": 0}, "temperature 0"),
        ({"teacher": "self", "share": 0}, "share is 0"),
    ]:
        with pytest.raises(UsageProblem, match=fragment):
            resolve("distil", options)
