"""Masked objectives: which tokens are chosen, what stands in their place, who sees them, and the value of the loss."""

import math

import pytest
import torch

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model import attention
from didact.model.model import Model
from didact.objective import resolve
from didact.objective.masked import Masked, document_starts, stretches
from didact.objective.tokens import Causal, causal_reach, next_token, whole_reach
from didact.rng import Rng
from tests.toy import VOCABULARY, toy_model, toy_stream, toy_vocabulary

MASK, SPECIAL = 1, 2  # of the toy vocabulary


def masked(**options) -> Masked:
    return Masked(**options).bind(toy_vocabulary())


def text(rows: int = 64, tokens: int = 512, documents: int = 1, seed: int = 0) -> Batch:
    """Rows of equally long documents of random tokens, all trained; every ninth token is special."""
    token = torch.randint(SPECIAL, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    token[:, ::9] = 0
    index = torch.arange(tokens).expand(rows, tokens)
    length = tokens // documents
    return Batch(
        {
            "token": token,
            "doc": (index // length).int(),
            "position": index % length,
            "trained": torch.ones(rows, tokens, dtype=torch.bool),
            "row": torch.arange(rows),
        }
    )


def prepare(objective: Masked, batch: Batch, seed: int = 0, progress: float = 0.0) -> Batch:
    return objective.prepare(None, batch, Rng(seed, 3, progress))


def sigmas(count: int, of: int, share: float) -> float:
    """How many standard deviations a binomial count is off."""
    return abs(count - of * share) / math.sqrt(of * share * (1 - share))


def test_reach_is_the_documents_last_token():
    batch = Batch({"token": torch.zeros(1, 8), "doc": torch.tensor([[0, 0, 0, 1, 2, 2, -1, -1]])})
    assert whole_reach(batch).tolist() == [[2, 2, 2, 3, 5, 5, 7, 7]]


@pytest.mark.parametrize("options", [{}, {"span": (1, 3)}, {"span": (2, 4)}, {"whole_word": True}])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_rate(options, rate):
    batch = text()
    chosen = prepare(masked(rate=rate, **options), batch).weight["token"].bool()
    able = int((batch.token >= SPECIAL).sum())
    assert not chosen[batch.token < SPECIAL].any()
    # Tokens of a stretch are chosen together: as if there were that many times fewer of them.
    together = options.get("span", (1, 3 if options else 1))[1]
    assert sigmas(int(chosen.sum()) // together, able // together, rate) < 4


def test_rate_goes_in_a_line_over_the_stage():
    batch = text()
    able = int((batch.token >= SPECIAL).sum())
    for progress, rate in [(0.0, 0.30), (0.5, 0.225), (1.0, 0.15)]:
        chosen = prepare(masked(rate=[0.30, 0.15]), batch, progress=progress).weight["token"]
        assert sigmas(int(chosen.sum()), able, rate) < 4


@pytest.mark.parametrize("corrupt", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.2, 0.5, 0.3)])
def test_shares_of_mask_random_and_kept(corrupt):
    batch = text()
    ready = prepare(masked(rate=0.5, corrupt=corrupt), batch)
    chosen = ready.weight["token"].bool()
    assert torch.equal(ready.token[~chosen], batch.token[~chosen])
    assert torch.equal(ready.target, batch.token)
    new, old = ready.token[chosen], batch.token[chosen]
    counts = [int((new == MASK).sum()), int(((new != MASK) & (new != old)).sum()), int((new == old).sum())]
    again = corrupt[1] / (VOCABULARY - SPECIAL)  # a random draw may be the token itself
    expected = [len(new) * share for share in (corrupt[0], corrupt[1] - again, corrupt[2] + again)]
    chi = sum((count - mean) ** 2 / max(mean, 1e-9) for count, mean in zip(counts, expected, strict=True))
    assert chi < 13.8  # the 0.999 quantile with two degrees of freedom


def test_random_replacements_are_every_ordinary_token_alike():
    batch = text(rows=128)
    ready = prepare(masked(rate=0.9, corrupt=(0.0, 1.0, 0.0)), batch)
    drawn = torch.bincount(ready.token[ready.weight["token"].bool()], minlength=VOCABULARY)
    assert drawn[:SPECIAL].sum() == 0
    mean = drawn.sum() / (VOCABULARY - SPECIAL)
    chi = float(((drawn[SPECIAL:] - mean) ** 2 / mean).sum())
    assert chi < 97  # the 0.999 quantile with 58 degrees of freedom


def test_only_trained_tokens_are_chosen_and_padding_is_not():
    batch = next(toy_stream(batch_size=8).start(0))[0]  # the first tokens of a document are only read
    chosen = prepare(masked(rate=1.0), batch).weight["token"].bool()
    assert torch.equal(chosen, batch.trained)
    assert (batch.doc < 0).any()
    assert not chosen[batch.doc < 0].any()


@pytest.mark.parametrize("options", [{}, {"shift": True}, {"whole_word": True, "span": (1, 3)}])
def test_every_document_with_a_trained_token_has_one_chosen(options):
    batch = text(rows=32, tokens=500, documents=100)
    batch["trained"][:, :5] = False  # but each row's first document
    ready = prepare(masked(rate=0.01, **options), batch)
    chosen = torch.zeros(32, 100).scatter_add(1, batch.doc.long(), ready.weight["token"])
    assert (chosen[:, 0] == 0).all()
    assert (chosen[:, 1:] >= 1).all()


def test_whole_words_are_chosen_whole():
    batch = text()
    begins = toy_vocabulary().begins[batch.token]
    word = begins.long().cumsum(1)
    ordinary = batch.token >= SPECIAL
    chosen = prepare(masked(rate=0.3, whole_word=True), batch).weight["token"].bool()
    for row in range(8):
        for number in word[row].unique():
            of_word = chosen[row][(word[row] == number) & ordinary[row]]
            assert of_word.all() or not of_word.any()
    assert (~begins & chosen).any()
    single = prepare(masked(rate=0.3), batch).weight["token"].bool()
    parted = (word[:, 1:] == word[:, :-1]) & (single[:, 1:] != single[:, :-1]) & ordinary[:, 1:] & ordinary[:, :-1]
    assert parted.any(), "single tokens should part words, or this test proves nothing"


def test_stretches_have_the_lengths_asked_for_and_end_with_their_document():
    batch = text(rows=16, tokens=600, documents=6)
    starts = document_starts(batch)
    draw = torch.rand(16, 600, generator=torch.Generator().manual_seed(0))
    number = stretches(torch.ones_like(starts), starts, draw, 2, 4)
    inner: list[int] = []
    for row in range(16):
        _, lengths = torch.unique_consecutive(number[row], return_counts=True)
        ends = lengths.cumsum(0) % 100  # documents have 100 tokens
        assert (lengths <= 4).all()
        assert set((lengths.cumsum(0)[ends == 0] // 100).tolist()) == {1, 2, 3, 4, 5, 6}
        begins = torch.roll(ends, 1)
        inner += lengths[(ends != 0) & (begins != 0)].tolist()
    counts = torch.bincount(torch.tensor(inner), minlength=5)[2:]
    mean = counts.sum() / 3
    assert counts.sum() == len(inner)
    assert float(((counts - mean) ** 2 / mean).sum()) < 13.8


def test_spans_of_words_keep_words_whole():
    begins = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 0, 1, 1]]).bool()
    starts = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 1, 0]]).bool()
    number = stretches(begins, starts, torch.zeros(1, 10), 2, 2)
    assert number.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]]


def test_draws_depend_on_the_row_alone():
    """The same choice whatever rows stand beside it and however wide they are: any number of processes."""
    wide, narrow = text(rows=6, tokens=90), text(rows=6, tokens=90)
    narrow = Batch({name: value if name == "row" else value[:, :70] for name, value in narrow.items()}).rows(
        slice(2, 5)
    )
    objective = masked(rate=0.3, span=(1, 3))
    one, two = prepare(objective, wide).rows(slice(2, 5)), prepare(objective, narrow)
    assert torch.equal(one.token[:, :66], two.token[:, :66])
    assert torch.equal(one.weight["token"][:, :66], two.weight["token"][:, :66])
    assert not torch.equal(one.token, prepare(objective, wide, seed=1).rows(slice(2, 5)).token)


def test_shift_predicts_from_the_position_before():
    batch = text(rows=8, tokens=120, documents=3)
    plain, shifted = (prepare(masked(rate=0.3, shift=shift), batch) for shift in (False, True))
    assert not shifted.weight["token"][:, 39::40].any(), "the last of a document predicts nothing"
    chosen, weight = plain.weight["token"].bool(), shifted.weight["token"].bool()
    starts = document_starts(batch)
    assert torch.equal(weight[:, :-1] & ~starts[:, 1:], (chosen & ~starts)[:, 1:])
    assert torch.equal(shifted.target[weight], batch.token.roll(-1, 1)[weight])
    hidden_there = shifted.token.roll(-1, 1)[weight]
    assert (hidden_there == MASK).float().mean() > 0.7


def test_masked_next_token_with_nothing_masked_is_causal():
    """Inputs untouched, every position a target, causal attention: the loss of next-token prediction."""
    model, batch = toy_model(), next(toy_stream(batch_size=3).start(0))[0]
    ready = masked(rate=1.0, corrupt=(0.0, 0.0, 1.0), shift=True).prepare(model, batch, Rng(0, 0))
    assert torch.equal(ready.token, batch.token)
    target, weight = next_token(batch)
    assert torch.equal(ready.weight["token"], weight)
    assert torch.equal(ready.target[weight.bool()], target[weight.bool()])
    causal = ready.with_(reach=causal_reach(batch))
    ours = masked(shift=True).loss(model, causal)["token"]
    theirs = Causal().loss(model, Causal().prepare(model, batch, Rng(0, 0)))["token"]
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(masked(shift=True).loss(model, ready)["token"], theirs)


def test_no_leak_of_what_is_masked():
    """The log-probability of a masked token has no gradient in its own embedding, and one in its neighbours'."""
    model = toy_model()
    batch = next(toy_stream(batch_size=1, pack=False).start(0))[0]
    place = batch.token.shape[1] // 2
    for shift in (False, True):
        objective = masked(shift=shift)
        batch["token"] = torch.arange(SPECIAL, SPECIAL + batch.token.shape[1])[None]  # each token once
        ready = objective.prepare(model, batch, Rng(0, 0))
        only = torch.zeros_like(ready.weight["token"])
        only[0, place - shift] = 1.0
        token = batch.token.clone()
        token[0, place] = MASK
        target = batch.token.roll(-1, 1) if shift else batch.token
        table = torch.nn.Parameter(model.net.get_input_embeddings().weight.detach().clone())
        free = Model(toy_model(tie_word_embeddings=False).net)
        free.net.get_input_embeddings().weight = table
        objective.loss(free, ready.with_({"token": only}, token=token, target=target))["token"].sum().backward()
        moved = table.grad.abs().sum(1)
        assert moved[batch.token[0, place]] == 0
        assert (moved[batch.token[0, [place - 1, place + 1]]] > 0).all()


def test_loss_equals_transformers_on_the_same_masking():
    """BertForMaskedLM with `labels`, padded, and ours; ModernBERT, which has a head of its own, likewise."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    attention.register()
    batch = next(toy_stream(batch_size=4, pack=False).start(0))[0]
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"vocab_size": VOCABULARY, "pad_token_id": 0, "initializer_range": 0.2, "max_position_embeddings": 64}
    more = {"bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
    more["modernbert"] = {"global_attn_every_n_layers": 2, "local_attention": 8}
    for architecture, fields in more.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **small, **fields)
        model = Model(AutoModelForMaskedLM.from_config(config, attn_implementation="reach"))
        model.check()
        ready = masked().prepare(model, batch, Rng(0, 0))
        weight = ready.weight["token"]
        ours = (masked().loss(model, ready)["token"] * weight).sum() / weight.sum()
        model.net.set_attn_implementation("eager")
        labels = torch.where(weight.bool(), batch.token, -100)
        theirs = model.net(input_ids=ready.token, attention_mask=(batch.doc >= 0).long(), labels=labels).loss
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0},
        {"rate": 1.5},
        {"rate": [0.1, 0.2, 0.3]},
        {"corrupt": [0.8, 0.1]},
        {"corrupt": [0.8, 0.1, 0.2]},
        {"span": [3, 1]},
        {"span": [0, 1]},
        {"span": [2]},
    ],
)
def test_numbers_that_mean_nothing(options):
    with pytest.raises(UsageProblem, match=next(iter(options))):
        resolve("masked", options)


def test_label_smoothing_and_z_loss_are_those_of_next_tokens():
    model, batch = toy_model(), text(rows=2, tokens=40)
    objective = masked(rate=0.5, label_smoothing=0.1, z_loss=1e-2)
    ready = prepare(objective, batch)
    here = ready.weight["token"].bool()
    logits = model.logits(model.hidden(ready))[here]
    theirs = torch.nn.functional.cross_entropy(logits, ready.target[here], label_smoothing=0.1, reduction="none")
    theirs = theirs + 1e-2 * logits.logsumexp(-1).square()
    torch.testing.assert_close(objective.loss(model, ready)["token"][here], theirs, rtol=1e-5, atol=1e-5)
