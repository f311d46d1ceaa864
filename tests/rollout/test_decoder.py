"""Prompts that come and go while others are decoded."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.rollout.decoder import Decoder
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from tests.rollout.models import VOCABULARY, letters, model

WARM = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=7)


def texts(count, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(2, VOCABULARY) for _ in range(rng.randrange(1, 12))] for _ in range(count)]


def close(one, other):
    assert (one.tokens, one.text, one.reason) == (other.tokens, other.text, other.reason)
    assert torch.tensor(one.logprobs).allclose(torch.tensor(other.logprobs), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(["join", "leave", "step", "two"]), min_size=4, max_size=16), st.randoms())
def test_whoever_comes_and_goes_each_says_what_it_says_alone(moves, chance):
    net = model()
    decoder, rows, gone = Decoder(net, letters, [1, 2]), [], set()
    with torch.inference_mode():
        for move in moves:
            if move in ("join", "two"):
                prompt = texts(1, seed=len(rows))[0]
                each = [
                    decoder.row(len(rows) + i, prompt, WARM.model_copy(update={"seed": len(rows) + i}))
                    for i in range(1 + (move == "two"))
                ]
                rows += each
                decoder.admit(each, share=True)
            elif move == "leave" and decoder.rows:
                left = chance.choice(decoder.rows)
                decoder.cancel(left)
                gone.add(left.out.prompt)
            elif decoder.rows:
                decoder.step()
            assert decoder.cache.slots == len(decoder.rows)
        while decoder.rows:
            decoder.step()
    for row in rows:
        alone = Sampler(net, letters, [1, 2]).generate([row.prompt], [row.sampling])[0]
        if row.out.prompt in gone:
            assert row.out.tokens == alone.tokens[: len(row.out.tokens)]
        else:
            close(row.out, alone)


def test_a_shared_prompt_is_read_once(monkeypatch):
    net = model()
    decoder, read = Decoder(net, letters, [1]), []
    plain = Decoder._forward

    def forward(self, token, *rest):
        read.append(token.shape)
        return plain(self, token, *rest)

    monkeypatch.setattr(Decoder, "_forward", forward)
    prompt, other = texts(2)
    rows = [decoder.row(i, text, WARM.model_copy(update={"seed": i})) for i, text in enumerate([prompt, other, prompt])]
    with torch.inference_mode():
        decoder.admit(rows, share=True)
        while decoder.rows:
            decoder.step()
    assert read[0] == (1, len(prompt) + len(other))
    for row in rows:
        close(row.out, Sampler(net, letters, [1]).generate([row.prompt], [row.sampling])[0])


@pytest.mark.parametrize("best", [1, 5, 1000])
def test_the_likeliest_are_told_with_their_logprobs(best):
    net = model()
    decoder = Decoder(net, letters, [])
    row = decoder.row(0, [5, 6, 7], WARM.model_copy(update={"temperature": 0.0}))
    row.best = best
    with torch.inference_mode():
        decoder.admit([row])
        decoder.step()
    for token, logprob, likeliest in zip(row.out.tokens, row.out.logprobs, row.out.likeliest, strict=True):
        assert likeliest[0] == (token, pytest.approx(logprob, abs=1e-6))
        assert len(likeliest) == min(best, VOCABULARY)
        assert [one for _, one in likeliest] == sorted((one for _, one in likeliest), reverse=True)


def test_a_row_is_steered():
    net = model()
    decoder = Decoder(net, letters, [])
    row = decoder.row(0, [5, 6, 7], WARM.model_copy(update={"temperature": 0.0}))
    seen = []

    def only(logits, tokens):
        seen.append(list(tokens))
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor([9 + len(tokens)]), 0.0)

    row.steer = only
    with torch.inference_mode():
        decoder.admit([row])
        decoder.step()
    assert row.out.tokens == [9, 10]
    assert seen == [[], [9]]
    assert all(logprob < 0 for logprob in row.out.logprobs)  # the model's own, not the steered
