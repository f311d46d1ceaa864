"""Weights that are loaded while the server runs: who may, from where, and what becomes of answers under way."""

from functools import partial

import httpx
import pytest
import torch

from didact.errors import UsageProblem
from didact.model import lora
from didact.model.save import save_model, write_model
from didact.model.settings import Lora
from didact.run.named import open_model
from didact.serve.command import Serving, serve
from didact.serve.keys import Keys, create
from tests.serve.running import running, served
from tests.serve.test_limits import begun, in_shape

post = partial(httpx.post, timeout=60)

WARM = {"model": "tiny", "temperature": 1.0, "top_p": 1.0, "max_tokens": 8, "prompt": [5, 6], "seed": 7, "logprobs": 0}


def whole(base, folder, seed=1):
    """Other weights for the base, in a folder of their own."""
    named = open_model(str(base), "cpu", lambda line: None)
    moved = torch.Generator().manual_seed(seed)
    for weight in named.model.net.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=moved).to(weight)
    save_model(named.model.net, named.renderer.tokenizer, folder)
    return folder


def adapter(base, folder, seed=1):
    named = open_model(str(base), "cpu", lambda line: None)
    lora.add(named.model.net, Lora(rank=2))
    moved = torch.Generator().manual_seed(seed)
    for name, weight in named.model.net.named_parameters():
        if "lora_B" in name:
            weight.data += torch.randn(weight.shape, generator=moved).to(weight)
    lora.save_adapter(named.model.net, folder, "base")
    return folder


def says(up, **asked):
    got = post(f"{up.url}/v1/completions", json=WARM | asked).json()
    return got["choices"][0]["logprobs"]["token_logprobs"]


def load(up, at, **asked):
    return post(f"{up.url}{at}", json={name: str(value) for name, value in asked.items()})


def test_a_model_gets_other_weights(base, tmp_path):
    with running(served(base), weights=tmp_path) as up, running(served(whole(base, tmp_path / "a"))) as other:
        before, card = says(up), up.client.models.retrieve("tiny").didact["hash"]
        assert load(up, "/update_weights_from_disk", model_path=tmp_path / "a").json()["success"] is True
        assert says(up) == pytest.approx(says(other), abs=1e-5)
        assert says(up) != pytest.approx(before, abs=1e-2)
        assert up.client.models.retrieve("tiny").didact["hash"] != card


def test_adapters_come_and_are_replaced(base, tmp_path):
    one, two = adapter(base, tmp_path / "one"), adapter(base, tmp_path / "two", 2)
    with running(served(base), weights=tmp_path) as up:
        plain = says(up)
        for folder in (one, two):
            body = {"lora_name": "mine", "lora_path": str(folder), "load_inplace": True}
            assert post(f"{up.url}/v1/load_lora_adapter", json=body).status_code == 200
            wanted = served(base)
            lora.load_adapter(wanted.named.model.net, folder)
            with running(wanted) as other:
                assert says(up, model="mine") == pytest.approx(says(other), abs=1e-5)
        assert says(up) == plain
        again = load(up, "/v1/load_lora_adapter", lora_name="mine", lora_path=one)
        assert "with load_inplace it is replaced" in in_shape(again)["message"]
        body = {"lora_name": "tiny", "lora_path": str(one), "load_inplace": True}
        assert "is a model, no adapter" in post(f"{up.url}/v1/load_lora_adapter", json=body).text
        whole(base, tmp_path / "a")
        beside = load(up, "/update_weights_from_disk", model_path=tmp_path / "a")
        assert "'tiny' is an adapter, or has one beside it" in in_shape(beside)["message"]


def test_an_answer_under_way_ends_with_the_weights_it_began_with(endless, tmp_path):
    """The one says ab for ever; the other, its weights all zero, would say the likeliest token of all, the first."""
    named = open_model(str(endless), "cpu", lambda line: None)
    for weight in named.model.net.parameters():
        weight.data.zero_()
    write_model(named.model.net, named.renderer.tokenizer, tmp_path / "zero")
    with running(served(endless, longest=100_000), weights=tmp_path) as up:
        up.open = httpx.Client(timeout=60)
        got, lines = begun(up)
        assert load(up, "/update_weights_from_disk", model_path=tmp_path / "zero").status_code == 200
        text = "".join(next(line for line in lines if '"content":"' in line) for _ in range(50))
        assert {"a", "b"} <= {*text}
        later = post(f"{up.url}/v1/completions", json={"prompt": "a", "max_tokens": 4, "temperature": 0}).json()
        assert later["choices"][0]["text"] not in ("baba", "abab")
        got.close()
        up.open.close()


def test_only_where_it_is_allowed_and_only_from_there(base, tmp_path):
    inside, outside = tmp_path / "in", whole(base, tmp_path / "out")
    adapter(base, inside / "adapter")
    (inside / "link").symlink_to(outside)
    (inside / "file").touch()
    with running(served(base)) as up:
        assert load(up, "/update_weights_from_disk", model_path=outside).status_code == 405
        assert load(up, "/v1/load_lora_adapter", lora_name="a", lora_path=outside).status_code == 405
    with running(served(base), weights=inside) as up:
        for path in (outside, "../out", inside / "link", "link", "file", "none", "/", "\0", "x" * 4000):
            got = load(up, "/update_weights_from_disk", model_path=path)
            assert "no folder in the one that weights may come from" in in_shape(got)["message"]
            assert got.status_code == 400
            assert load(up, "/v1/load_lora_adapter", lora_name="a", lora_path=path).status_code == 400
        got = load(up, "/update_weights_from_disk", model_path="adapter")
        assert "the weights of an adapter" in in_shape(got)["message"]
        assert says(up)


def test_what_does_not_fit_is_refused_and_changes_nothing(base, endless, tmp_path):
    (tmp_path / "empty").mkdir()
    named = open_model(str(endless), "cpu", lambda line: None)
    write_model(named.model.net, named.renderer.tokenizer, tmp_path / "else")
    with running(served(base), weights=tmp_path) as up:
        before = says(up)
        assert "not weights of 'tiny'" in load(up, "/update_weights_from_disk", model_path="else").text
        assert load(up, "/update_weights_from_disk", model_path="empty").status_code == 400
        assert load(up, "/v1/load_lora_adapter", lora_name="a", lora_path="else").status_code == 400
        assert says(up) == before
        assert [one.id for one in up.client.models.list()] == ["tiny"]


def test_where_keys_are_only_the_trainer_may(base, tmp_path):
    adapter(base, tmp_path / "adapter")
    ann, trainer = create(tmp_path / "keys", "ann"), create(tmp_path / "keys", "trainer")
    with running(served(base), keys=Keys(tmp_path / "keys"), weights=tmp_path) as up:
        for at, body in (
            ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "adapter"}),
            ("/update_weights_from_disk", {"model_path": "adapter"}),
        ):
            assert post(f"{up.url}{at}", json=body).status_code == 401
            got = post(f"{up.url}{at}", json=body, headers={"Authorization": f"Bearer {ann}"})
            assert (got.status_code, in_shape(got)["code"]) == (403, "weights_not_allowed")
        body, right = {"lora_name": "a", "lora_path": "adapter"}, {"Authorization": f"Bearer {trainer}"}
        assert post(f"{up.url}/v1/load_lora_adapter", json=body, headers=right).status_code == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": "none"}, "no such folder"),
        ({"weights": ".", "quantize": "int8"}, "leave --quantize out"),
        ({"weights": ".", "host": "0.0.0.0", "no_key": True}, "make a key with --new-key trainer"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(tmp_path, options, says):
    with pytest.raises(UsageProblem, match=says):
        serve("nothing", Serving(port=0, **options | {"weights": tmp_path / options["weights"]}), print)
