import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.errors import Problem, ResourceProblem
from didact.model import folder as folders
from didact.model import save as saving
from didact.model.load import load
from didact.model.save import save_model
from didact.model.scratch import build
from didact.model.settings import Scratch, Tune
from didact.model.tune import apply
from tests.model.folders import ARCHITECTURES, checkpoint, jolt, logits, tiny, tiny_tokenizer

TUNES = ["all", "head", {"last": 1}, {"lora": {"rank": 4}}, {"tokens": ["<a>", "<b>"]}]


def tuned(value, architecture="llama", dtype=torch.float32):
    model, tokenizer = tiny(architecture, dtype), tiny_tokenizer()
    apply(model, Tune.model_validate(value), tokenizer)
    jolt(model)
    return model, tokenizer


@pytest.mark.parametrize("value", TUNES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_saved_is_what_was_trained(tmp_path, architecture, value):
    model, tokenizer = tuned(value, architecture)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, tokenizer, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert torch.allclose(logits(again), logits(model), atol=1e-5)
    assert (logits(model)[..., :259] - logits(tiny(architecture))[..., :259]).abs().max() > 0.01 or "tokens" in value
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    text = "ab <a><b>"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert os.listdir(tmp_path) == ["out"]


def test_what_was_compiled_to_train_is_compared_uncompiled(tmp_path):
    """A compiled norm rounds otherwise, which is no fault of what was saved."""

    def elsewhere(graph, _):
        return lambda *given: tuple(1.01 * out if torch.is_tensor(out) else out for out in graph(*given))

    model, tokenizer = tuned("all")
    plain = logits(model)
    for layer in model.model.layers:
        layer.input_layernorm.compile(backend=elsewhere)
    assert not torch.allclose(logits(model), plain, atol=1e-3)
    save_model(model, tokenizer, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert torch.allclose(logits(again), plain, atol=1e-5)


@pytest.mark.parametrize("value", ["all", {"lora": {"rank": 4}}], ids=str)
def test_the_type_is_kept(tmp_path, value):
    build_ = Scratch(architecture="llama", size="300k")
    model = build(build_, tiny_tokenizer(), 64, 0, torch.bfloat16)
    apply(model, Tune.model_validate(value))
    jolt(model)
    model.train()
    save_model(model, tiny_tokenizer(), tmp_path / "out")
    assert model.training
    assert model.config._attn_implementation == "reach"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert not {"auto_map", "quantization_config", "_name_or_path"} & set(config)
    assert "attn_implementation" not in json.dumps(config)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_stops_template_and_other_files(tmp_path):
    model, tokenizer = tuned("all")
    model.generation_config.temperature = 0.3  # transformers refuses to write it without do_sample
    files = {"recipe.yaml": "name: x\n", "raw.bin": b"\x00\x01"}
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save_model(model, tokenizer, tmp_path / "out", stops=(1, 7), template=template, extra_files=files)
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"], generation["temperature"]) == ([1, 7], 2, 0.3)
    assert model.generation_config.temperature == 0.3
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.eos_token_id == [1, 7]
    assert (tmp_path / "out/recipe.yaml").read_text() == "name: x\n"
    assert (tmp_path / "out/raw.bin").read_bytes() == b"\x00\x01"
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert (settings["chat_template"], settings["model_max_length"]) == (template, 64)


def test_an_adapter_alone(tmp_path):
    model = load(checkpoint(tmp_path / "base"), torch.float32, "eager")
    apply(model, Tune.model_validate({"lora": {"rank": 4}}))
    jolt(model)
    save_model(model, tiny_tokenizer(), tmp_path / "out", merge=False)
    assert not (tmp_path / "out/model.safetensors").exists()
    assert torch.equal(logits(load(tmp_path / "out", torch.float32, "eager")), logits(model))
    with pytest.raises(Problem, match="came from no folder"):
        save_model(tuned({"lora": {}})[0], tiny_tokenizer(), tmp_path / "other", merge=False)
    assert sorted(os.listdir(tmp_path)) == ["base", "out"]


def test_a_wrong_merge_fails_and_leaves_the_older_folder(tmp_path, monkeypatch):
    save_model(*tuned("all"), tmp_path / "out")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    monkeypatch.setattr(saving.LoraLinear, "merged", lambda self: self.base.weight.detach())
    with pytest.raises(Problem, match="not the trained one"):
        save_model(*tuned({"lora": {"rank": 4}}), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


def test_a_lost_weight_fails(tmp_path, monkeypatch):
    model, tokenizer = tuned("all")
    write = saving.write_model

    def forgetful(model, *given):
        write(tiny(), *given)

    monkeypatch.setattr(saving, "write_model", forgetful)
    with pytest.raises(Problem, match="was not saved as it is"):
        save_model(model, tokenizer, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_rounded_constants_fail(tmp_path):
    with pytest.raises(Problem, match=r"inv_freq.*load\.cast"):
        save_model(tiny().to(torch.bfloat16), tiny_tokenizer(), tmp_path / "out")


def test_nan_fails(tmp_path):
    model, tokenizer = tuned("all")
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(Problem):
        save_model(model, tokenizer, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_the_older_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_text("x")

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_flush", full)
    with pytest.raises(ResourceProblem, match="No space left"), folders.write_folder(tmp_path / "out") as fresh:
        (fresh / "new").write_text("y")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out/kept").read_text() == "x"
