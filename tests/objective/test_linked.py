import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from didact.audit.laws import step_gradient
from didact.data.corpus import Corpus
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.errors import UsageProblem
from didact.objective import resolve
from didact.objective.linked import Linked, LinkedMasked, Together, together
from didact.objective.tokens import Causal
from didact.rng import Rng
from tests.toy import VOCABULARY, toy_model, toy_stream, toy_vocabulary


def corpus(lengths, values, seed=0):
    """Pairs of random texts of the given lengths."""
    sizes = np.array(lengths)
    bound = np.concatenate([[0], np.cumsum(sizes.sum(1))])
    token = np.random.default_rng(seed).integers(2, VOCABULARY, bound[-1]).astype(np.int32)
    text = np.repeat(np.tile([0, 1], len(sizes)), sizes.flatten()).astype(np.int16)
    value = np.array(values, np.float32)
    return Corpus(token, np.ones(bound[-1], np.bool_), bound, sizes.sum(1) * 3, 1.0, text, value)


def pairs(context=32, objective=Together, values=(0, 1, 2, 2)):
    parts = cut([corpus([[5, 9], [12, 3], [7, 7], [4, 30]], values)], context, "window", joined=objective.joined)[0]
    return next(TokenStream(parts, context, 4, 0, shuffle=False).start(0))[0]


def headed(objective, **fields):
    model = toy_model(**fields)
    model.add_heads(objective.heads)
    return model


def stirred(model):
    """With a head that says something."""
    torch.manual_seed(1)
    for weight in model.heads.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def plain(model):
    """The network with transformers' own attention."""
    model.net.set_attn_implementation("eager")
    return model.net


EACH = pytest.mark.parametrize("objective", [Linked().bind(toy_vocabulary()), LinkedMasked().bind(toy_vocabulary())])


def test_texts_become_one_document_within_the_context():
    batch = together(pairs())
    lengths = (batch.doc >= 0).sum(1).tolist()
    assert lengths == [14, 15, 14, 20]  # the last text of 30 tokens keeps its half of 32
    assert batch.token.shape[1] <= 32
    assert set(batch.doc.unique().tolist()) == {-1, 0}
    assert batch.position[0, :14].tolist() == list(range(14))
    whole = pairs(64)
    assert batch.token[3, 19] == whole.token[3, 33], "a shortened text keeps its end"


def test_together_is_causal_over_the_joined_row():
    model, batch = toy_model(), pairs()
    ready = Together().prepare(model, batch, Rng(0, 0))
    loss = Together().loss(model, ready)["token"]
    logits = plain(model)(batch.token[:1, :14]).logits[0].log_softmax(-1)
    want = -logits[:-1].gather(1, batch.token[0, 1:14, None])[:, 0]
    torch.testing.assert_close(loss[0, :13], want, atol=1e-5, rtol=1e-5)
    assert ready.weight["token"].sum() == sum(length - 1 for length in (14, 15, 14, 20))


def test_the_second_text_sees_the_first():
    model, batch = toy_model(), pairs()
    other = batch.with_(token=torch.where(batch.doc == 0, batch.token.flip(0) % 50 + 2, batch.token))
    found = [
        objective.loss(model, objective.prepare(model, one, Rng(0, 0)))["token"][0, 5:13]
        for objective in (Together(), Causal())
        for one in (batch, other)
    ]
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    torch.testing.assert_close(found[2], found[3])


@EACH
def test_relation_starts_at_log_three(objective):
    model = headed(objective)
    ready = objective.prepare(model, pairs(), Rng(0, 0))
    torch.testing.assert_close(objective.loss(model, ready)["relation"], torch.full((4,), math.log(3)))
    assert ready.weight["relation"].tolist() == [1, 1, 1, 1]
    assert ready.relation.tolist() == [0, 1, 2, 2]


def test_relation_is_read_from_the_last_token_of_a_decoder():
    objective = Linked(relation=0.5)
    model = stirred(headed(objective))
    batch = pairs()
    loss = objective.loss(model, objective.prepare(model, batch, Rng(0, 0)))["relation"]
    head = model.heads["relation"]
    for row, (length, relation) in enumerate(zip((14, 15, 14, 20), (0, 1, 2, 2), strict=True)):
        last = plain(model).base_model(batch.token[row : row + 1, :length]).last_hidden_state[0, -1]
        want = F.cross_entropy(last @ head.weight.T + head.bias, torch.tensor(relation))
        assert loss[row].item() == pytest.approx(0.5 * want.item(), abs=1e-5)


def test_relation_is_read_from_the_first_token_of_an_encoder():
    objective = LinkedMasked().bind(toy_vocabulary())
    model = stirred(headed(objective))
    batch = pairs()
    ready = objective.prepare(model, batch, Rng(0, 0))
    changed = ready.with_(token=torch.where(batch.doc == 1, 2, ready.token))
    one, other = (objective.loss(model, given)["relation"] for given in (ready, changed))
    assert not torch.isclose(one, other, atol=1e-4).any(), "the first token does not see the second text"


@EACH
def test_terms_are_means_of_their_own(objective):
    model, batch = stirred(headed(objective)), pairs()
    ready = objective.prepare(model, batch, Rng(0, 0))
    losses = objective.loss(model, ready)
    sum((losses[term] * w).sum() / w.sum() for term, w in ready.weight.items()).backward()
    mean = model.heads["relation"].weight.grad.clone()
    model.zero_grad()
    found = step_gradient(model, objective, batch, 1)
    torch.testing.assert_close(found["heads.relation.weight"], mean, atol=1e-6, rtol=1e-5)


@EACH
def test_relations_are_learned(objective):
    """Pairs whose relation is in the second text: the head tells them after a few steps."""
    model = headed(objective, hidden_size=64, intermediate_size=128)
    data = corpus([[4, 4]] * 24, [i % 3 for i in range(24)])
    data.token[data.text == 1] = np.repeat(np.arange(24) % 3 + 40, 4)
    batch = next(TokenStream(cut([data], 16, "window", joined=True)[0], 16, 24, 0).start(0))[0]
    ready = objective.prepare(model, batch, Rng(0, 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = objective.loss(model, ready)["relation"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_other_data_is_refused():
    model = headed(Linked())
    with pytest.raises(UsageProblem, match="reads pairs of texts; give it what a links stage leaves"):
        Together().prepare(model, next(toy_stream().start(0))[0], Rng(0, 0))
    for values in ([0, 1, 2, float("nan")], [0, 1, 2, 0.5], [0, 1, 2, 3]):
        with pytest.raises(UsageProblem, match="have no relation"):
            Linked().prepare(model, pairs(values=values), Rng(0, 0))
    with pytest.raises(UsageProblem, match="no head 'relation'"):
        Linked().loss(toy_model(), Linked().prepare(model, pairs(), Rng(0, 0)))


def test_recipes_name_them():
    assert resolve("linked", {"relation": 0.5}) == Linked(relation=0.5)
    assert isinstance(resolve("linked_masked", {"rate": 0.3}), LinkedMasked)
    assert isinstance(resolve("together", {}), Together)
