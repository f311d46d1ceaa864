"""Goldfish loss: the mask against a plain loop, its share, and that it follows the text and nothing else."""

import math

import pytest
import torch
from torch.nn import functional as F

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.goldfish import BASE, PRIME, kept, rolled, spread
from didact.objective.tokens import Causal
from didact.rng import Rng
from tests.toy import toy_model, toy_stream


def text(size: int, seed: int = 0, vocabulary: int = 50_000) -> torch.Tensor:
    return torch.randint(vocabulary, (size,), generator=torch.Generator().manual_seed(seed))


def mask(tokens: torch.Tensor, k: int = 4, context: int = 13) -> torch.Tensor:
    return kept(tokens[None], torch.zeros(1, len(tokens), dtype=torch.int32), k, context)[0]


def test_equals_a_plain_loop():
    token = torch.randint(9, (3, 40), generator=torch.Generator().manual_seed(0))
    doc = torch.tensor([[0] * 25 + [1] * 15, [0] * 40, [0] * 7 + [1] * 3 + [2] * 20 + [-1] * 10], dtype=torch.int32)
    for context in (1, 4, 13):
        for b in range(3):
            for i in range(40):
                before = token[b, max(i - context, 0) : i].tolist()
                wanted = True
                if len(before) == context and doc[b, i - context] == doc[b, i]:
                    value = sum((t + 1) * BASE**j for j, t in enumerate(reversed(before))) % PRIME
                    wanted = int(spread(torch.tensor(value))) >= PRIME // 3
                assert bool(kept(token, doc, 3, context)[b, i]) == wanted, (context, b, i)


@pytest.mark.parametrize("k", [2, 4, 50])
@pytest.mark.parametrize("context", [1, 4, 13])
def test_one_target_in_k_is_left_out(k, context):
    """Within four standard deviations of the binomial; with a context of 1 there are as many draws as words."""
    size = 200_000
    found = mask(text(size), k, context)[context:]
    draws = size if context > 1 else 50_000
    assert abs(1 - found.float().mean().item() - 1 / k) < 4 * math.sqrt((1 - 1 / k) / k / draws)


def test_small_vocabularies_and_zeros_are_no_trap():
    """A product hash is 0 for good after one token 0, and a sum hash of small numbers is small."""
    for vocabulary in (2, 3, 256):
        found = mask(text(100_000, vocabulary=vocabulary), 4, 13)[13:]
        assert 0.70 < found.float().mean().item() < 0.80
    zeros = torch.zeros(50_000, dtype=torch.int64)
    zeros[::14] = text(len(zeros[::14]), seed=1)
    assert 0.70 < mask(zeros, 4, 13)[13:].float().mean().item() < 0.80


def test_a_copied_passage_has_the_same_holes_anywhere():
    passage, context = text(400), 13
    alone = mask(passage)[context:]
    for offset in (1, 2, 13, 77):
        moved = mask(torch.cat([text(offset, seed=offset), passage, text(5, seed=9)]))
        assert torch.equal(moved[offset + context : offset + 400], alone)
    token = torch.cat([text(50, seed=3), passage])[None]
    doc = torch.tensor([[0] * 50 + [1] * 400], dtype=torch.int32)
    packed = kept(token, doc, 4, context)[0, 50:]
    assert packed[:context].all(), "a document's first tokens have no whole context"
    assert torch.equal(packed[context:], alone)


def test_only_the_tokens_before_and_their_order_count():
    base, context = text(2000), 4
    before = mask(base, 4, context)
    changed = base.clone()
    changed[1000] = (changed[1000] + 1) % 50_000
    where = (mask(changed, 4, context) != before).nonzero().flatten()
    assert len(where)
    assert where.min() > 1000, "the target itself is not part of its hash"
    assert where.max() <= 1000 + context, "nor is anything further back"
    one, other = (rolled(torch.tensor([[*ids, 0]]), 4)[0, 4] for ids in ([5, 6, 7, 8], [6, 5, 7, 8]))
    assert one != other


def test_left_out_targets_have_no_gradient_and_do_not_count():
    model, batch = toy_model(), next(toy_stream(batch_size=4, prompt=1).start(0))[0]
    objective = Causal(goldfish=2, goldfish_context=3)
    ready = objective.prepare(model, batch, Rng(0, 0))
    usual = Causal().prepare(model, batch, Rng(0, 0)).weight["token"]
    weight = ready.weight["token"]
    dropped = (usual > 0) & (weight == 0)
    assert dropped.sum() > 5
    hidden = model.hidden(ready).detach().requires_grad_()
    out = model.net.get_output_embeddings().weight
    logits = F.linear(hidden, out)
    nats = F.cross_entropy(logits[weight > 0], ready.target[weight > 0])
    ours = (objective.nats(model, hidden, ready.target, weight) * weight).sum() / weight.sum()
    assert ours.item() == pytest.approx(nats.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(ours, hidden)
    assert (gradient[dropped] == 0).all()
    assert (gradient[weight > 0] != 0).any(-1).all()


def test_its_mistakes():
    for options in ({"goldfish": 1}, {"goldfish": -2}, {"goldfish": 4, "goldfish_context": 0}):
        with pytest.raises(UsageProblem, match="goldfish"):
            Causal(**options)


def recited(goldfish: int, documents: torch.Tensor, prompt: int = 20) -> float:
    """Share of documents whose whole end follows greedily from their beginning, after overfitting them."""
    model = toy_model(vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=4)
    objective = Causal(goldfish=goldfish, goldfish_context=4)
    index = torch.arange(documents.shape[1]).expand_as(documents)
    batch = Batch({"token": documents, "position": index, "doc": torch.zeros_like(documents).int()})
    batch = batch.with_(trained=torch.ones_like(documents, dtype=torch.bool))
    ready = objective.prepare(model, batch, Rng(0, 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        weight = ready.weight["token"]
        loss = (objective.loss(model, ready)["token"] * weight).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        ids = documents[:, :prompt]
        while ids.shape[1] < documents.shape[1]:
            here = torch.arange(ids.shape[1]).expand_as(ids)
            seen = Batch({"token": ids, "position": here, "doc": torch.zeros_like(ids), "reach": here})
            ids = torch.cat([ids, model.logits(model.hidden(seen)[:, -1]).argmax(-1)[:, None]], 1)
    return (ids == documents).all(1).float().mean().item()


@pytest.mark.slow
def test_nothing_is_recited_after_a_hundred_epochs():
    """METHODS 11: 50 documents, 100 epochs: exact continuation of about all without, of none with goldfish."""
    documents = text(50 * 80, seed=5, vocabulary=256).view(50, 80)
    plain, goldfish = recited(0, documents), recited(4, documents)
    print(f"recited: {plain:.0%} without, {goldfish:.0%} with goldfish")
    assert plain > 0.9
    assert goldfish < 0.05
