"""Completions, embeddings and what is told of the models."""

import base64

import httpx
import numpy as np
import openai
import pytest
import torch

from didact.model import lora
from didact.model.embed import Embedder
from didact.model.settings import Lora
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.named import Named, open_model
from didact.serve.lane import lane
from didact.serve.served import Served
from didact.serve.state import Beside
from didact.serve.weights import adapted
from tests.model.folders import jolt
from tests.run.speakers import chain, speaker
from tests.serve.running import running, served

WARM = {"model": "tiny", "temperature": 1.0, "top_p": 1.0, "max_tokens": 8}


def one(named, prompt, seed):
    way = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8, seed=seed)
    decode = lambda ids: named.renderer.decode(ids, skip_special=True)  # noqa: E731
    return Sampler(named.model, decode, named.renderer.stops).generate([prompt], [way])[0]


def test_seeds_have_63_bits_and_the_one_after_the_last_is_0(server):
    named = next(iter(server.state.models.values())).named
    ids, last = named.renderer.beginning("The red"), (1 << 63) - 1
    answer = server.client.completions.create(**WARM, prompt=ids, n=2, seed=last)
    assert [choice.text for choice in answer.choices] == [one(named, ids, seed).text for seed in (last, 0)]


def test_texts_and_ids_are_gone_on_from_alike(server):
    named = next(iter(server.state.models.values())).named
    texts = ["The red", "The blue a"]
    ids = [named.renderer.beginning(text) for text in texts]
    by_text = server.client.completions.create(**WARM, prompt=texts, n=2, seed=3)
    by_ids = server.client.completions.create(**WARM, prompt=ids, n=2, seed=3)
    assert [choice.text for choice in by_text.choices] == [choice.text for choice in by_ids.choices]
    assert by_text.choices[3].text == one(named, ids[1], 6).text
    assert by_text.usage.prompt_tokens == sum(map(len, ids))


def test_echo_and_logprobs(server):
    named = next(iter(server.state.models.values())).named
    got = server.client.completions.create(**WARM, prompt="The red", echo=True, logprobs=2, seed=3).choices[0]
    out = one(named, named.renderer.beginning("The red"), 3)
    assert got.text == "The red" + out.text
    assert got.logprobs.token_logprobs == pytest.approx(out.logprobs, abs=1e-4)
    assert got.logprobs.text_offset[0] == len("The red")
    assert all(len(best) <= 2 for best in got.logprobs.top_logprobs)


def test_a_streamed_completion_is_the_whole_one(server):
    whole = server.client.completions.create(**WARM, prompt="The red", echo=True, seed=3, logprobs=0).choices[0]
    chunks = [*server.client.completions.create(**WARM, prompt="The red", echo=True, seed=3, logprobs=0, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert [t for chunk in chunks for t in chunk.choices[0].logprobs.tokens] == whole.logprobs.tokens
    offsets = [place for chunk in chunks for place in chunk.choices[0].logprobs.text_offset]
    assert offsets == whole.logprobs.text_offset


def test_token_ids_are_all_that_was_drawn(server):
    """The stop token, too, with its log-probability: what a trainer needs, and chat leaves out."""
    named = next(iter(server.state.models.values())).named
    stops = named.renderer.stops
    asked = {**WARM, "max_tokens": 40, "prompt": "The red", "n": 8, "seed": 3, "logprobs": 0}
    told = {**asked, "extra_body": {"return_token_ids": True}}
    whole, plain = server.client.completions.create(**told), server.client.completions.create(**asked)
    chunks = [chunk.choices[0] for chunk in server.client.completions.create(**told, stream=True)]
    assert {choice.finish_reason for choice in whole.choices} == {"stop", "length"}
    for choice, other in zip(whole.choices, plain.choices, strict=True):
        ids, probs = choice.token_ids, choice.logprobs.token_logprobs
        assert (ids[-1] in stops) == (choice.finish_reason == "stop")
        assert named.renderer.decode(ids, skip_special=True).endswith(choice.text[-4:])
        assert [token for chunk in chunks if chunk.index == choice.index for token in chunk.token_ids] == ids
        assert "token_ids" not in other.model_extra
        assert other.logprobs.token_logprobs == probs[: len(ids) - (ids[-1] in stops)]
        assert len(probs) == len(ids)
    assert sum(len(choice.token_ids) for choice in whole.choices) == whole.usage.completion_tokens


@pytest.mark.parametrize("change", [{"prompt": [[10**6]]}, {"prompt": []}, {"best_of": 2}, {"prompt": ["x"] * 33}])
def test_completions_that_cannot_be(server, change):
    with pytest.raises(openai.BadRequestError):
        server.client.completions.create(**{**WARM, "prompt": "x", **change})


# --- embeddings --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embeds(base):
    named = open_model(str(base), "cpu", lambda line: None)
    named.model.served = {"writes": False, "embedding": {"pool": "mean", "bidirectional": False, "dimensions": [8]}}
    return named


def test_embeddings_are_the_models(embeds):
    with running(Served("vectors", embeds, None)) as up:
        texts = ["red", "The blue thing"]
        wanted = Embedder.of(embeds.model, embeds.renderer)(texts, "document").numpy()
        got = up.client.embeddings.create(model="vectors", input=texts, encoding_format="float")
        assert np.allclose([row.embedding for row in got.data], wanted, atol=1e-6)
        plain = httpx.post(f"{up.url}/v1/embeddings", json={"input": texts, "encoding_format": "base64"}).json()
        found = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in plain["data"]]
        assert np.allclose(found, wanted, atol=1e-6)
        ids = [embeds.renderer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        again = up.client.embeddings.create(model="vectors", input=ids)
        assert np.allclose([row.embedding for row in again.data], wanted, atol=1e-6)
        small = up.client.embeddings.create(model="vectors", input="red", dimensions=8)
        assert len(small.data[0].embedding) == 8
        for bad in ({"dimensions": 7}, {"input": ""}, {"input": []}):
            with pytest.raises(openai.BadRequestError):
                up.client.embeddings.create(**{"model": "vectors", "input": "red", **bad})
        with pytest.raises(openai.BadRequestError, match="embeds only"):
            up.client.chat.completions.create(model="vectors", messages=[{"role": "user", "content": "x"}])
        assert httpx.get(f"{up.url}/health").status_code == 200


def test_an_embedder_stands_beside_a_model_that_writes(base, embeds):
    beside = Beside("small", lambda: Embedder.of(embeds.model, embeds.renderer))
    with running(served(base), beside=beside) as up:
        for name in ("tiny", "small"):
            assert up.client.embeddings.create(model=name, input="red").model == "small"
    with running(served(base)) as up, pytest.raises(openai.BadRequestError, match="not trained to embed"):
        up.client.embeddings.create(model="tiny", input="red")


# --- several models ----------------------------------------------------------------------------------------


def test_adapters_are_served_side_by_side_and_share_the_base(base, tmp_path):
    first = open_model(str(base), "cpu", lambda line: None)
    for number in range(2):
        net = open_model(str(base), "cpu", lambda line: None).model.net
        lora.add(net, Lora(rank=2), seed=number)
        jolt(net, 0.3 + number)
        lora.save_adapter(net, tmp_path / f"a{number}", "tiny")
    alone = [Named(base, first.model, first.renderer)]
    for number in range(2):
        named = open_model(str(base), "cpu", lambda line: None)
        lora.load_adapter(named.model.net, tmp_path / f"a{number}")
        alone.append(named)
    beside = [first, *(adapted(first, tmp_path / f"a{number}") for number in range(2))]
    pointers = [{p.data_ptr() for p in named.model.parameters()} for named in beside]
    assert pointers[0] <= pointers[1]
    assert pointers[0] <= pointers[2]
    prompt = first.renderer.beginning("The red")
    with running(*(Served(f"m{i}", named, lane(named)) for i, named in enumerate(beside))) as up:
        assert {model.id for model in up.client.models.list()} == {"m0", "m1", "m2"}
        texts = [
            up.client.completions.create(**{**WARM, "model": f"m{i}"}, prompt="The red", seed=3).choices[0].text
            for i in range(3)
        ]
        hashes = {up.client.models.retrieve(f"m{i}").didact["hash"] for i in range(3)}
    assert texts == [one(named, prompt, 3).text for named in alone]
    assert len({*texts}) == 3
    assert len(hashes) == 3


def test_a_model_that_unmasks_is_served(tmp_path):
    folder = speaker(tmp_path / "m", chain("Yes, I do!"[:3] + "!"))
    named = open_model(str(folder), "cpu", lambda line: None)
    pad = named.renderer.tokenizer.pad_token_id
    named.model.served = {"text_diffusion": {"mask": pad, "shift": True, "block": None}}
    with running(Served("tiny", named, lane(named))) as up:
        ask = {"model": "tiny", "messages": [{"role": "user", "content": "Do you?"}], "temperature": 0, "max_tokens": 4}
        whole = up.client.chat.completions.create(**ask)
        streamed = up.client.chat.completions.create(**ask, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        assert text == whole.choices[0].message.content
        assert text
        with pytest.raises(openai.BadRequestError, match="unmasking"):
            up.client.chat.completions.create(**ask, response_format={"type": "json_object"})
        got = up.client.chat.completions.create(**ask, n=3)
        assert len(got.choices) == 3
        assert torch.is_grad_enabled()
