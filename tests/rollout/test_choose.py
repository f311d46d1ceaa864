"""Drawing a token, against plain definitions and against frequencies."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from didact.rollout.choose import candidates, choose, penalised, uniform
from didact.rollout.settings import Sampling

SIZE = 12
ALL = Sampling(temperature=1.0, top_p=1.0)


def logits(seed=0, size=SIZE):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2


def by_hand(logits, way):
    """The distribution, written down from the definitions with plain lists."""
    weights = [math.exp(x / way.temperature) for x in logits.tolist()]
    ranked = sorted(range(len(weights)), key=lambda i: -weights[i])
    if way.top_k:
        ranked = ranked[: way.top_k]
    whole, held, kept = sum(weights[i] for i in ranked), 0.0, []
    for i in ranked:
        if (way.top_p == 1 or held < way.top_p * whole) and weights[i] >= way.min_p * weights[ranked[0]]:
            kept.append(i)
        held += weights[i]
    left = sum(weights[i] for i in kept)
    return {i: weights[i] / left for i in kept}


ways = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.5]),
    top_k=st.integers(0, SIZE + 3),
    top_p=st.sampled_from([0.05, 0.5, 0.83, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.4, 1.0]),
)


@given(ways, st.integers(0, 1000))
def test_candidates_equal_the_definition(way, seed):
    prob, token = candidates((logits(seed) / way.temperature).softmax(-1), way)
    wanted = by_hand(logits(seed), way)
    assert set(token[prob > 0].tolist()) == set(wanted)
    found = dict(zip(token.tolist(), (prob / prob.sum()).tolist(), strict=True))
    assert all(abs(found[i] - p) < 1e-5 for i, p in wanted.items())


def test_the_whole_distribution_keeps_what_rounding_hides():
    way = Sampling(temperature=0.3, top_k=10, top_p=1.0)
    prob, token = candidates((logits(0) / way.temperature).softmax(-1), way)
    assert len(token) == 10
    assert set(token.tolist()) == set(by_hand(logits(0), way))
    assert (prob > 0).all()


@given(ways, st.integers(0, 1000), st.sampled_from([1.0, 0.7, 1.6]))
def test_candidates_equal_transformers(way, seed, penalty):
    seen = torch.tensor([0, 3, 5])
    chain = LogitsProcessorList()
    chain.append(RepetitionPenaltyLogitsProcessor(penalty))
    chain.append(TemperatureLogitsWarper(way.temperature))
    if way.top_k:
        chain.append(TopKLogitsWarper(way.top_k))
    if way.top_p < 1:
        chain.append(TopPLogitsWarper(way.top_p))
    if way.min_p:
        chain.append(MinPLogitsWarper(way.min_p))
    theirs = chain(seen[None], logits(seed)[None])[0].softmax(-1)
    prob, token = candidates((penalised(logits(seed), seen, penalty) / way.temperature).softmax(-1), way)
    ours = torch.zeros(SIZE).index_put((token,), prob / prob.sum())
    assert ours.allclose(theirs, atol=1e-6)


@pytest.mark.parametrize(
    "way",
    [
        ALL,
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1.5, top_k=5, top_p=1.0),
        Sampling(temperature=1.0, top_p=1.0, min_p=0.1),
        Sampling(temperature=1.2, top_k=9, top_p=0.8, min_p=0.02),
    ],
)
def test_frequencies(way):
    """Chi-square of 20,000 draws below the 99.99 % point (Wilson and Hilferty 1931)."""
    draws, scores = 20_000, logits(3)
    counts = [0] * SIZE
    for place in range(draws):
        counts[choose(scores, way, None, uniform(0, place))] += 1
    wanted = by_hand(scores, way)
    assert sum(counts[i] for i in wanted) == draws
    freedom = len(wanted) - 1
    chi = sum((counts[i] - draws * p) ** 2 / (draws * p) for i, p in wanted.items())
    assert chi < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


def test_greedy_is_the_likeliest_and_needs_no_luck():
    greedy = Sampling(temperature=0)
    assert {choose(logits(1), greedy, None, u) for u in (0.0, 0.5, 0.999)} == {int(logits(1).argmax())}


def test_the_penalty_decides():
    scores = torch.tensor([2.0, 1.9, -1.0])
    way = Sampling(temperature=0, repetition_penalty=1.5)
    assert choose(scores, way, torch.tensor([0]), 0.5) == 1
    assert penalised(scores, torch.tensor([0, 2]), 2.0).tolist() == pytest.approx([1.0, 1.9, -2.0])
    assert scores.tolist() == pytest.approx([2.0, 1.9, -1.0]), "the logits given were changed"


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53, 1.0])
def test_a_token_without_a_chance_is_never_drawn(u):
    scores = torch.full((50,), -math.inf)
    scores[10:20] = 0.1
    assert 10 <= choose(scores, ALL, None, u) < 20
    assert 10 <= choose(scores, Sampling(temperature=1, top_k=40, top_p=1.0), None, u) < 20


def test_top_p_looks_past_its_first_candidates():
    """A flat distribution over more tokens than are looked at first."""
    flat = torch.zeros(5000)
    drawn = {choose(flat, Sampling(temperature=1, top_p=0.9), None, uniform(1, i)) for i in range(3000)}
    assert len(drawn) > 1500


def test_uniform_numbers():
    drawn = [uniform(seed, place) for seed in range(30) for place in range(100)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= u < 1 for u in drawn)
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.02
    assert uniform(3, 4) == uniform(3, 4) != uniform(4, 3)
    assert random.Random(0).random() not in drawn
