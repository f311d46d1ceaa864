"""Texts to vectors: packed as alone, padding is nothing, a prompt is read and not pooled."""

import pytest
import torch
from torch.nn import functional as F

from didact.batch import Batch
from didact.objective.pool import POOLS, embed, ends
from tests.toy import toy_model, toy_pairs

ways = pytest.mark.parametrize("pool", POOLS)
both = pytest.mark.parametrize("bidirectional", [True, False])


def batch(**given) -> Batch:
    return next(toy_pairs(batch_size=5, negatives=2, **given).start(0))[0]


def by_hand(model, given: Batch, pool: str, bidirectional: bool) -> torch.Tensor:
    """Text by text through the network's own attention."""
    model.net.set_attn_implementation("eager")
    model.net.config.is_causal = not bidirectional
    texts = int(given.doc.max()) + 1
    vectors = torch.zeros(given.size, texts, model.net.config.hidden_size)
    for row in range(given.size):
        for text in range(int(given.doc[row].max()) + 1):
            here = given.doc[row] == text
            hidden = model.body(input_ids=given.token[row, here][None], use_cache=False).last_hidden_state[0]
            trained = given.trained[row, here]
            vector = {"mean": hidden[trained].mean(0), "last": hidden[trained][-1], "cls": hidden[0]}[pool]
            vectors[row, text] = F.normalize(vector, dim=0)
    return vectors


@ways
@both
def test_vectors_are_those_of_each_text_alone(pool, bidirectional):
    given = batch()
    texts = int(given.doc.max()) + 1
    found = embed(toy_model(), given, texts, pool, bidirectional)
    torch.testing.assert_close(found, by_hand(toy_model(), given, pool, bidirectional), rtol=0, atol=2e-6)


@ways
@both
def test_padding_is_nothing_and_a_prompt_is_something(pool, bidirectional):
    given, model = batch(), toy_model()
    padding = given.doc < 0
    assert padding.any()
    found = embed(model, given, 4, pool, bidirectional)
    padded = embed(model, given.with_(token=given.token.masked_fill(padding, 7)), 4, pool, bidirectional)
    assert torch.equal(found, padded)
    prompt = given.token.where(given.trained | padding, (given.token + 1) % 61)
    changed = embed(model, given.with_(token=prompt), 4, pool, bidirectional)
    there = found.norm(dim=-1) > 0
    assert ((found - changed).norm(dim=-1)[there] > 1e-3).all()


@both
def test_the_future_is_seen_only_when_bidirectional(bidirectional):
    given, model = batch(), toy_model()
    last = given.token.clone()
    last[:, given.doc[0].eq(0).nonzero()[-1]] += 1  # the last token of the first row's first text
    found = [embed(model, given.with_(token=token), 4, "cls", bidirectional)[0, 0] for token in (given.token, last)]
    assert torch.equal(*found) is not bidirectional


@ways
def test_a_text_without_a_pooled_token_has_no_vector(pool):
    given = batch()
    given["trained"][2] = False
    assert (embed(toy_model(), given, 4, pool, True)[2] == 0).all()


def test_ends():
    assert ends(torch.tensor([0, 0, 3, 4, 4, 4])).tolist() == [1, 1, 2, 5, 5, 5]
