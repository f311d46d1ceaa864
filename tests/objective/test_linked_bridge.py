"""A corpus of bridge facts: what a page uses is said only on the page that links to it."""

import math

import numpy as np
import pytest
import torch

from didact.data.corpus import Corpus
from didact.data.links.graph import linked
from didact.data.links.pages import Page
from didact.data.links.pairs import Drawing
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.measure.bridge import Bridges
from didact.objective.linked import Together
from didact.objective.tokens import Causal
from didact.rng import Rng
from tests.toy import toy_model

KEYS, VALUES = range(2, 18), range(18, 34)  # token ids; the rest is filler
FACTS, PAGES = 2, 1500


def drawing(seed: int) -> Drawing:
    """Pages of facts (``key value key value``) that link to pages which use one a segment (``filler key value``)."""
    rng = np.random.default_rng(seed)
    pages, segments = [], []
    for i in range(PAGES):
        facts = list(zip(rng.permutation(KEYS)[:FACTS], rng.choice(VALUES, FACTS), strict=True))
        said = [token for fact in facts for token in fact]
        pages.append(Page(f"f{i}", f"f{i}", f"f{i}", "x", (f"u{i}",)))
        segments.append([_text([*said, 60]), _text([*rng.integers(34, 60, 2 * FACTS), 60])])
        pages.append(Page(f"u{i}", f"u{i}", f"u{i}", "x", ()))
        segments.append([_text([rng.integers(34, 60), key, value]) for key, value in facts])
    return Drawing(linked(pages), segments)


def _text(tokens) -> str:
    return " ".join(map(str, tokens))


def corpus(pairs) -> Corpus:
    texts = [[np.fromstring(text, np.int32, sep=" ") for text in (pair.first, pair.second)] for pair in pairs]
    sizes = np.array([[len(text) for text in both] for both in texts])
    bound = np.concatenate([[0], np.cumsum(sizes.sum(1))])
    token = np.concatenate([text for both in texts for text in both])
    text = np.repeat(np.tile([0, 1], len(sizes)), sizes.flatten()).astype(np.int16)
    return Corpus(
        token, np.ones(len(token), np.bool_), bound, sizes.sum(1), 1.0, text, np.zeros(len(sizes), np.float32)
    )


def stream(pairs, rows: int) -> TokenStream:
    return TokenStream(cut([corpus(pairs)], 32, "drop", joined=True)[0], 32, rows, 0)


def trained(relations: list[str], seed: int, steps: int):
    model = toy_model(seed, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    batches = stream(list(drawing(seed).pairs(relations, 2, seed)), 64).start(0)
    for _ in range(steps):
        ready = Together().prepare(model, next(batches)[0], Rng(0, 0))
        loss = (Together().loss(model, ready)["token"] * ready.weight["token"]).sum() / ready.weight["token"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def loss(model, objective, batch) -> float:
    ready = objective.prepare(model, batch, Rng(0, 0))
    return float((objective.loss(model, ready)["token"] * ready.weight["token"]).sum() / ready.weight["token"].sum())


ARMS = {relation: [relation] for relation in ("linked", "random", "contiguous")}


@pytest.mark.slow
def test_facts_are_read_across_links():
    """Held out: pages of facts that no arm has seen, so what is not read in the first text can only be guessed."""
    pairs = [pair for pair in drawing(9).pairs(["linked"], 1, 9) if int(pair.first.split()[0]) in KEYS]
    batch = next(stream(pairs, 256).start(0))[0]
    values = torch.zeros(61, dtype=torch.bool)
    values[list(VALUES)] = True
    alone = batch.with_(trained=batch.trained & (batch.doc == 0))
    models = {arm: trained(relations, 0, 300) for arm, relations in ARMS.items()}
    bridge = {arm: loss(model, Bridges(rare=values), batch) for arm, model in models.items()}
    single = {arm: loss(model, Causal(), alone) for arm, model in models.items()}
    print(bridge, single)
    chance = math.log(len(VALUES))
    assert bridge["linked"] < chance - 0.3
    for arm in ("random", "contiguous"):
        assert bridge[arm] > chance - 0.05, "it knows what it cannot know"
        assert single["linked"] == pytest.approx(single[arm], abs=0.1)
