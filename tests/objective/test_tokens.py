"""Next-token prediction and its prefix form, against values computed by hand and by transformers."""

import math

import pytest
import torch

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective import resolve
from didact.objective.tokens import Causal, Prefix, causal_reach, next_token, prefix_reach
from didact.rng import Rng
from tests.toy import toy_model, toy_stream


def packed() -> Batch:
    """Two documents and padding in one row; the first two tokens of each document are only read."""
    return Batch(
        {
            "token": torch.tensor([[5, 6, 7, 8, 9, 10, 11, 0]]),
            "doc": torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1]]),
            "position": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0]]),
            "trained": torch.tensor([[False, False, True, True, False, False, True, False]]),
            "row": torch.tensor([0]),
        }
    )


class Uniform:
    """A model that knows nothing."""

    def hidden(self, batch):
        return batch.token.float()

    def logprob(self, hidden, target, where, **options):
        return torch.where(where != 0, -math.log(61), 0.0)


def test_targets_stay_inside_their_document():
    target, weight = next_token(packed())
    assert weight.tolist() == [[0, 1, 1, 0, 0, 1, 0, 0]]
    assert target[weight.bool()].tolist() == [7, 8, 11]


def test_nobody_is_asked_for_the_next_documents_first_token():
    batch = packed()
    batch["trained"][:] = batch["doc"] >= 0
    _, weight = next_token(batch)
    assert weight.tolist() == [[1, 1, 1, 0, 1, 1, 0, 0]]


def test_reach():
    assert causal_reach(packed()).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert prefix_reach(packed()).tolist() == [[1, 1, 2, 3, 5, 5, 6, 7]]


def test_prefix_of_a_document_without_a_trained_token_is_causal():
    batch = packed()
    batch["trained"][0, 4:] = False
    assert prefix_reach(batch).tolist() == [[1, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("objective", [Causal(), Prefix()])
def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(objective):
    ready = objective.prepare(Uniform(), packed(), Rng(0, 0))
    loss = objective.loss(Uniform(), ready)["token"]
    assert loss[ready.weight["token"].bool()].tolist() == pytest.approx([math.log(61)] * 3)


def test_causal_equals_transformers_and_prefix_does_not():
    model = toy_model()
    batch = next(toy_stream(batch_size=3, pack=False).start(0))[0]
    losses = {}
    for objective in (Causal(), Prefix()):
        ready = objective.prepare(model, batch, Rng(0, 0))
        weight = ready.weight["token"]
        losses[type(objective)] = ((objective.loss(model, ready)["token"] * weight).sum() / weight.sum()).item()
    model.net.set_attn_implementation("eager")
    labels = torch.where(batch.trained, batch.token, -100)
    theirs = model.net(input_ids=batch.token, attention_mask=(batch.doc >= 0).long(), labels=labels).loss.item()
    assert losses[Causal] == pytest.approx(theirs, rel=1e-5)
    assert losses[Prefix] != pytest.approx(theirs, rel=1e-3)


def test_logits_are_causal():
    """Changing a token changes no log-probability before it (METHODS: perturb t + 1, logits up to t unchanged)."""
    model = toy_model()
    batch = next(toy_stream(batch_size=1).start(0))[0]
    objective = Causal()
    ready = objective.prepare(model, batch, Rng(0, 0))
    place = int((batch.doc[0] == 0).sum()) - 2
    other = batch.with_(token=batch.token.clone())
    other["token"][0, place] = (other.token[0, place] + 1) % 61
    changed = objective.prepare(model, other, Rng(0, 0))
    with torch.no_grad():
        one, two = (objective.loss(model, b)["token"][0] for b in (ready, changed))
    assert torch.equal(one[: place - 1], two[: place - 1])
    assert not torch.equal(one, two)


def test_resolve_by_name_by_import_path_and_its_mistakes():
    assert resolve("sft", {}) == Causal()
    assert resolve("didact.objective.tokens:Prefix", {}) == Prefix()
    for name, options, fragment in [
        ("casual", {}, "did you mean 'causal'"),
        ("causal", {"beta": 1}, "no option 'beta'"),
        ("nowhere:Thing", {}, "cannot import"),
        ("didact.rng:Rng", {}, "is not an Objective"),
    ]:
        with pytest.raises(UsageProblem, match=fragment):
            resolve(name, options)


def test_label_smoothing_and_z_loss_reach_the_head():
    model, batch = toy_model(), next(toy_stream(batch_size=3).start(0))[0]
    objective = resolve("causal", {"label_smoothing": 0.1, "z_loss": 1e-2})
    ready = objective.prepare(model, batch, Rng(0, 0))
    here = ready.weight["token"].bool()
    logits = model.logits(model.hidden(ready))[here]
    theirs = torch.nn.functional.cross_entropy(logits, ready.target[here], label_smoothing=0.1, reduction="none")
    theirs = theirs + 1e-2 * logits.logsumexp(-1).square()
    torch.testing.assert_close(objective.loss(model, ready)["token"][here], theirs, rtol=1e-5, atol=1e-5)
    for option in ({"label_smoothing": 1.0}, {"z_loss": -1.0}):
        with pytest.raises(UsageProblem):
            resolve("causal", option)
