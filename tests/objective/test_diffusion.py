"""The diffusion bound against values computed by hand, by enumeration, and against the models it must reduce to."""

import math
from dataclasses import replace
from functools import cache
from itertools import combinations, product

import pytest
import torch

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model.sight import Sight, allowed
from didact.objective import resolve
from didact.objective.base import Objective
from didact.objective.diffusion import EPSILON, Diffusion, bound, doubled, levels
from didact.rng import Rng
from tests.toy import VOCABULARY, toy_model, toy_stream, toy_vocabulary

MASK = 1
OPENING = 0


def diffusion(**options) -> Diffusion:
    return Diffusion(**options, vocabulary=toy_vocabulary())


def rows(tokens: torch.Tensor, **columns) -> Batch:
    """Rows of one document each, every token trained; the first of a row is only read."""
    index = torch.arange(tokens.shape[1]).expand_as(tokens)
    made = {"token": tokens, "position": index, "doc": torch.zeros_like(index), "trained": index >= 0}
    return Batch({**made, "row": torch.arange(len(tokens)), **columns})


def mean(objective: Objective, model, batch: Batch) -> float:
    """The loss of a prepared batch, as the engine takes it."""
    with torch.no_grad():
        loss, weight = objective.loss(model, batch)["token"], batch.weight["token"]
    return float((loss.double() * weight).sum() / weight.double().sum())


class Uniform:
    """A model that knows nothing but that the mask is no text."""

    def hidden(self, batch):
        return batch.token.float()

    def logprob(self, hidden, target, where, never):
        assert never == MASK
        return torch.where(where != 0, -math.log(VOCABULARY - 1), 0.0)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 1.0),
        ({"weighting": "mdlm"}, 1 - EPSILON),
        ({"exact": True}, 1.0),
        ({"block": 4}, 1.0),
        ({"block": 4, "exact": True}, 1.0),
        ({"shift": True}, 1.0),
        ({"block": 4, "rates": [0.45, 0.95]}, 1.0),
    ],
)
def test_one_who_knows_nothing_pays_log_v(options, share):
    """METHODS: log V with LLaDA's weights, 0.999 log V with MDLM's."""
    objective, model = diffusion(**options), Uniform()
    batch = rows(torch.full((512, 41), 7))
    found = sum(mean(objective, model, objective.prepare(model, batch, Rng(0, n))) for n in range(25)) / 25
    tolerance = 1e-6 if options.get("exact") else 6e-3
    assert found / math.log(VOCABULARY - 1) == pytest.approx(share, abs=tolerance)


def test_mdlm_hides_less_than_it_divides_by():
    """The thousandth that the mean above is too noisy to show."""
    objective, model = diffusion(weighting="mdlm", rates=(0.9999, 1.0)), Uniform()
    batch = rows(torch.full((4000, 101), 7))
    ready = objective.prepare(model, batch, Rng(0, 0))
    assert (ready.factor > 0).float().sum() / ready.weight["token"].sum() == pytest.approx(1 - EPSILON, abs=2e-4)
    llada = replace(objective, weighting="llada").prepare(model, batch, Rng(0, 0))
    assert (llada.factor > 0).float().sum() / llada.weight["token"].sum() > 1 - 1e-4


# --- a distribution small enough to know everything of -------------------------------------------------------

LETTERS, LENGTH = 3, 3
TABLE = torch.rand(*[LETTERS] * LENGTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
TABLE /= TABLE.sum()
TEXTS = torch.tensor([[OPENING, *(2 + letter for letter in x)] for x in product(range(LETTERS), repeat=LENGTH)])
TRUTH = -TABLE.flatten().log()  # -log p(x), in the order of TEXTS


class Exact:
    """Knows p(x[i] | what is not hidden)."""

    def hidden(self, batch):
        return batch.token[..., None]

    def logprob(self, hidden, target, where, never):
        found = torch.zeros(where.shape, dtype=torch.float64)
        for row, column in where.nonzero().tolist():
            seen = hidden[row, 1:, 0].tolist()
            found[row, column] = conditional(tuple(seen), column - 1, int(target[row, column]))
        return found


@cache
def conditional(seen: tuple[int, ...], place: int, token: int) -> float:
    """log p(token at place | what is seen), from the table."""
    part = TABLE
    for axis, letter in enumerate(seen):
        part = part if letter == MASK else part.index_select(axis, torch.tensor([letter - 2]))
    marginal = part.sum([i for i in range(LENGTH) if i != place])
    return float((marginal[token - 2] / marginal.sum()).log())


def hidden_by_hand(tokens: torch.Tensor, which: tuple[int, ...]) -> Batch:
    """Every row with these places hidden, divided by their share."""
    length = tokens.shape[1] - 1
    factor = torch.zeros(tokens.shape)
    factor[:, list(which)] = length / len(which)
    noised = tokens.masked_fill(factor > 0, MASK)
    reach = torch.full_like(tokens, length)
    ready = rows(noised, target=tokens, factor=factor, reach=reach)
    return ready.with_({"token": (ready.position > 0).float()})


def enumerated(objective: Diffusion, model, tokens: torch.Tensor) -> torch.Tensor:
    """The L/l bound of every row in nats, summed over all l and all sets of l tokens."""
    length = tokens.shape[1] - 1
    total = torch.zeros(len(tokens), dtype=torch.float64)
    for count in range(1, length + 1):
        sets = list(combinations(range(1, length + 1), count))
        for which in sets:
            ready = hidden_by_hand(tokens, which)
            with torch.no_grad():
                total += objective.loss(model, ready)["token"].double().sum(1) / (length * len(sets))
    return total


def test_the_exact_bound_is_tight_for_exact_conditionals():
    """METHODS 4(c): an any-order autoregressive model pays -log p(x), for every x."""
    torch.testing.assert_close(enumerated(diffusion(), Exact(), TEXTS), TRUTH, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"weighting": "mdlm"}])
def test_drawn_bounds_converge_to_it(options):
    objective, model, often = diffusion(**options), Exact(), 200
    batch = rows(TEXTS.repeat(often, 1))
    with torch.no_grad():
        each = objective.loss(model, objective.prepare(model, batch, Rng(1, 0)))["token"].sum(1).view(often, -1)
    weight = TABLE.flatten()
    spread = float((each @ weight).std()) / often**0.5
    found = float((each @ weight).mean())
    assert spread < 0.1
    assert found == pytest.approx(float(TRUTH @ weight) * (0.999 if "weighting" in options else 1), abs=4 * spread)


def test_exactly_l_are_hidden_each_set_as_often():
    objective = diffusion(exact=True)
    ready = objective.prepare(Uniform(), rows(TEXTS[:1].repeat(7000, 1)), Rng(2, 0))
    hidden = ready.factor > 0
    assert not hidden[:, 0].any()
    count = hidden.sum(1, keepdim=True)
    assert (ready.factor == hidden * LENGTH / count).all()
    patterns, seen = hidden[:, 1:].unique(dim=0, return_counts=True)
    assert len(patterns) == 2**LENGTH - 1
    expected = torch.tensor([7000 / LENGTH / math.comb(LENGTH, int(p.sum())) for p in patterns])
    assert float(((seen - expected).square() / expected).sum()) < 22.5  # chi-square, 6 degrees of freedom, p = 0.001


def test_a_single_token_costs_its_likelihood():
    objective, model = diffusion(), toy_model()
    tokens = torch.tensor([[5, 9], [8, 2]])
    ready = hidden_by_hand(tokens, (1,))
    found = objective.loss(model, ready)["token"][:, 1]
    seen = ready.with_(token=tokens.clone().index_fill_(1, torch.tensor([1]), MASK))
    logits = model.logits(model.hidden(seen))[:, 1]
    logits[:, MASK] = -math.inf
    torch.testing.assert_close(found, -logits.log_softmax(-1).gather(1, tokens[:, 1:])[:, 0])


# --- what is hidden ------------------------------------------------------------------------------------------


def packed() -> Batch:
    return next(toy_stream(batch_size=64, documents=300).start(0))[0]


@pytest.mark.parametrize("options", [{}, {"block": 4}, {"exact": True}, {"shift": True}, {"weighting": "mdlm"}])
def test_only_learned_tokens_are_hidden(options):
    batch = packed()
    ready = diffusion(**options).prepare(Uniform(), batch, Rng(0, 0))
    hidden = ready.token != batch.token
    assert hidden.any()
    assert (ready.token[hidden] == MASK).all()
    assert not (hidden & ~batch.trained).any(), "a prompt is read clean"
    learned = batch.trained & (batch.position > 0)
    assert ready.weight["token"].sum() == learned.sum(), "the mean is over all that is learned, hidden or not"
    place, target = (ready.factor > 0, ready.target) if "shift" not in options else _back(ready)
    assert torch.equal(place, hidden)
    assert torch.equal(target[hidden], batch.token[hidden])


def _back(ready):
    return (ready.factor > 0).roll(1, 1), ready.target.roll(1, 1)


def test_each_document_and_each_block_has_a_level_of_its_own():
    batch = packed()
    for objective, size in ((diffusion(), 1 << 30), (diffusion(block=4), 4)):
        ready = objective.prepare(Uniform(), batch, Rng(0, 0))
        found = {}
        for row, column in (ready.factor > 0).nonzero().tolist():
            key = (row, int(batch.doc[row, column]), int(batch.position[row, column]) // size)
            found.setdefault(key, set()).add(float(ready.factor[row, column]))
        assert all(len(values) == 1 for values in found.values())
        assert len({value for values in found.values() for value in values}) == len(found) > 50


def test_levels_are_uniform_and_spread_over_any_run_of_rows():
    stretch = torch.zeros(64, 1, dtype=torch.int64)
    for start in (0, 7, (3 << 32) + 5):
        for step in range(20):
            level = levels(Rng(0, step), start + torch.arange(64), stretch)[:, 0].sort().values
            gaps = level.diff(append=level[:1] + 1)
            assert gaps.max() < 2.7 / 64, "64 independent numbers leave gaps of 5/64"
    first = torch.cat([levels(Rng(0, step), torch.tensor([5]), stretch[:1])[0] for step in range(4000)])
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    assert first.var() == pytest.approx(1 / 12, abs=0.005)


def test_what_is_drawn_depends_on_seed_step_and_row_alone():
    """So any number of processes draws the same."""
    objective, batch = diffusion(), packed()
    whole = objective.prepare(Uniform(), batch, Rng(0, 3))
    part = objective.prepare(Uniform(), batch.rows(slice(1, 64, 2)), Rng(0, 3))
    assert torch.equal(whole.token[1::2], part.token)
    assert not torch.equal(whole.token, objective.prepare(Uniform(), batch, Rng(0, 4)).token)


def test_sight_opens_over_the_anneal():
    batch = rows(torch.full((1, 9), 7))
    objective = diffusion(shift=True, anneal=0.4)
    reach = {p: objective.prepare(Uniform(), batch, Rng(0, 0, p)).reach[0].tolist() for p in (0.0, 0.2, 0.4, 1.0)}
    assert reach[0.0] == list(range(9))
    assert reach[0.2] == [4, 4, 5, 5, 6, 6, 7, 7, 8]
    assert reach[0.4] == reach[1.0] == [8] * 9
    assert diffusion().prepare(Uniform(), packed(), Rng(0, 0)).reach[0].tolist() == _ends(packed().doc[0])


def _ends(doc):
    return [max(k for k in range(len(doc)) if doc[k] == d) for d in doc]


# --- blocks --------------------------------------------------------------------------------------------------


def test_block_mask_against_a_loop():
    batch = packed().rows(slice(0, 4))
    for size in (1, 3, 4, 100):
        ready = diffusion(block=size).prepare(Uniform(), batch, Rng(0, 0))
        both = doubled(ready, size)
        found = allowed(Sight(both.doc, both.reach, both.order), both.doc.shape[1], None)
        width = batch.doc.shape[1]
        assert torch.equal(both.token[:, :width], ready.token)
        assert torch.equal(both.token[:, width:], batch.token)
        for row in range(4):
            doc, block = batch.doc[row].tolist(), (batch.position[row] // size).tolist()
            for q in range(2 * width):
                for k in range(2 * width):
                    (qn, qi), (kn, ki) = divmod(q, width), divmod(k, width)
                    noisy_q, noisy_k = qn == 0, kn == 0
                    same, before = block[qi] == block[ki], block[ki] < block[qi]
                    sees = (same if noisy_k else before) if noisy_q else not noisy_k and (same or before)
                    assert bool(found[row, q, k]) == (sees and doc[qi] == doc[ki]), (row, q, k, size)


def test_one_block_is_no_block():
    model, batch = toy_model(), packed()
    whole, block = diffusion(), diffusion(block=1000)
    one, other = (o.prepare(model, batch, Rng(0, 0)) for o in (whole, block))
    assert torch.equal(one.token, other.token)
    torch.testing.assert_close(whole.loss(model, one)["token"], block.loss(model, other)["token"])


def test_blocks_of_one_are_left_to_right():
    """The exact bound is then the likelihood: by the chain rule, each token predicted from a mask in its place."""
    model = toy_model()
    tokens = torch.randint(2, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    objective = diffusion(block=1, exact=True)
    ready = objective.prepare(model, rows(tokens), Rng(0, 0))
    found = objective.loss(model, ready)["token"]
    for i in range(1, 7):
        so_far = rows(torch.cat([tokens[:, :i], torch.full((3, 1), MASK)], 1))
        reach = so_far.position
        logits = model.logits(model.hidden(so_far.with_(reach=reach)))[:, i]
        logits[:, MASK] = -math.inf
        wanted = -logits.log_softmax(-1).gather(1, tokens[:, i : i + 1])[:, 0]
        torch.testing.assert_close(found[:, i], wanted, rtol=1e-5, atol=1e-5)


def test_no_gradient_reaches_what_is_hidden():
    """Neither a hidden token's own embedding nor a later block's has a say."""
    model = toy_model()
    tokens = torch.arange(2, 14)[None]  # every token once, so a row of the table is a place
    for objective in (diffusion(), diffusion(block=4)):
        ready = objective.prepare(model, rows(tokens), Rng(0, 1))
        size = objective.block or 12
        hidden = (ready.factor > 0)[0].nonzero()[:, 0].tolist()
        table = model.net.get_input_embeddings().weight
        block = hidden[0] // size
        ours = torch.tensor([[i in hidden and i // size == block for i in range(12)]])
        states = model.hidden(doubled(ready, 4) if objective.block else ready)[:, :12]
        grad = torch.autograd.grad(states[ours].square().sum(), table)[0].abs().sum(1)
        told = {i for i in range(12) if grad[int(tokens[0, i])] > 0}
        assert told == {i for i in range(12) if i // size < block or (i // size == block and i not in hidden)}


def test_blocks_refuse_a_sliding_window():
    model = toy_model()
    ready = diffusion(block=4).prepare(model, packed(), Rng(0, 0))
    both = doubled(ready, 4)
    with pytest.raises(UsageProblem, match="sliding"):
        allowed(Sight(both.doc, both.reach, both.order), both.doc.shape[1], 8)


# --- as a recipe says it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weighting": "sedd"}, "sedd"),
        ({"rates": [0.5, 0.2]}, "interval"),
        ({"block": 0}, "block of 0"),
        ({"anneal": 2}, "share"),
        ({"block": 4, "shift": True}, "shift"),
    ],
)
def test_bad_options_are_one_line(options, said):
    with pytest.raises(UsageProblem, match=said):
        resolve("diffusion", options)


def test_served_as_trained():
    served = diffusion(block=8).served()
    assert served == {"text_diffusion": {"mask": MASK, "shift": False, "block": 8}}
    scorer = bound(served)
    assert (scorer.exact, scorer.block, scorer.vocabulary.mask) == (True, 8, MASK)
