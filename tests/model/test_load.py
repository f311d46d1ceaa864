import json
import os
import pickle
import resource
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from didact.errors import DataProblem, Problem, ResourceProblem
from didact.model.gguf import check, convert_gguf
from didact.model.load import cast, load, quiet, resolve
from tests.model.folders import ARCHITECTURES, VOCABULARY, checkpoint, logits, text, tiny, write_gguf

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loads_what_was_saved(tmp_path, architecture, dtype):
    checkpoint(tmp_path, architecture)
    model = load(tmp_path, dtype, "eager")
    assert model.dtype == dtype
    assert not model.training
    assert torch.equal(logits(model), logits(cast(tiny(architecture), dtype)))
    assert model.name_or_path == str(tmp_path)


def test_takes_the_attention_called_reach(tmp_path):
    assert load(checkpoint(tmp_path), torch.float32).config._attn_implementation == "reach"


def test_shards_and_tied_copies_are_the_same_checkpoint(tmp_path):
    with quiet():
        tiny().save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / WEIGHTS).exists()
    assert torch.equal(logits(load(tmp_path, torch.float32, "eager")), logits(tiny()))
    whole = checkpoint(tmp_path / "whole")
    tensors = load_file(whole / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, whole / WEIGHTS)
    model = load(whole, torch.float32, "eager")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_generation_settings_come_along(tmp_path):
    checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 5], "temperature": 0.5}')
    found = load(tmp_path, torch.float32, "eager").generation_config
    assert (found.eos_token_id, found.temperature) == ([1, 5], 0.5)


def test_the_padding_row_is_trained_like_any_other(tmp_path):
    model = load(checkpoint(tmp_path, tie_word_embeddings=False), torch.float32, "eager")
    model(input_ids=torch.full((1, 4), 2), use_cache=False).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad[2].abs().sum() > 0


def test_a_rewritten_file_changes_nothing(tmp_path):
    model = load(checkpoint(tmp_path), torch.float32, "eager")
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.seek(5000)
        file.write(b"\x00" * 20000)
    assert torch.equal(logits(model), logits(tiny()))


def test_code_named_by_a_checkpoint_never_runs(tmp_path):
    checkpoint(tmp_path)
    trace = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    os.makedirs(tmp_path / "custom_generate")
    (tmp_path / "custom_generate" / "generate.py").write_text(f"open({str(trace)!r}, 'w')\n")
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit(tmp_path, auto_map=names, _attn_implementation="evil/kernel", attn_implementation="evil/kernel")
    model = load(tmp_path, torch.float32, "eager")
    assert not trace.exists()
    assert model.config._attn_implementation == "eager"
    assert not hasattr(model.config, "auto_map")
    assert torch.equal(logits(model), logits(tiny()))


# Hostile and damaged folders: what is done to a good one, and what the one line must say.


def edit(folder: Path, **fields) -> None:
    raw = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(raw))


def drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def retensor(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def reheader(folder: Path, change) -> None:
    data = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + length])
    head = json.dumps(change(entries) or entries).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def cut(folder: Path, size: int) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(size)


def claim(folder: Path, length: int) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(struct.pack("<Q", length))


def to_pickle(folder: Path) -> None:
    drop(folder, WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def index(folder: Path, value) -> None:
    os.rename(folder / WEIGHTS, folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(value))


def entry(**fields):
    return lambda entries: entries["model.norm.weight"].update(fields)


def poison(tensors) -> None:
    tensors["model.norm.weight"][3] = float("nan")


HOSTILE = {
    "empty folder": (lambda f: drop(f, "config.json", WEIGHTS), "no config.json"),
    "no weights": (lambda f: drop(f, WEIGHTS), "no model.safetensors"),
    "pickle only": (to_pickle, "pickled.*save_pretrained"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{model_type: llama"), "config.json: not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "not an object"),
    "config empty": (lambda f: (f / "config.json").write_text(""), "not JSON"),
    "config of nested lists": (lambda f: (f / "config.json").write_text("[" * 100_000), "not JSON"),
    "NaN in config": (lambda f: (f / "config.json").write_text('{"model_type": "llama", "x": NaN}'), "not JSON"),
    "unknown architecture": (lambda f: edit(f, model_type="zebra9"), "zebra9"),
    "architecture not a name": (lambda f: edit(f, model_type=7), "no architecture"),
    "no causal model": (lambda f: edit(f, model_type="vit"), "no causal model|impossible|configuration"),
    "quantised": (lambda f: edit(f, quantization_config={"quant_method": "gptq"}), "quantised"),
    "width a word": (lambda f: edit(f, hidden_size="wide"), "not a llama configuration"),
    "heads do not divide": (lambda f: edit(f, num_attention_heads=5), "not a llama configuration"),
    "no heads": (lambda f: edit(f, num_attention_heads=0), "not a llama configuration|impossible"),
    "negative vocabulary": (lambda f: edit(f, vocab_size=-5), "impossible"),
    "unknown activation": (lambda f: edit(f, hidden_act="zz"), "impossible"),
    "a billion layers": (lambda f: edit(f, num_hidden_layers=10**9), "tensors"),
    "a billion labels": (lambda f: edit(f, num_labels=10**9), "tensors"),
    "a vast vocabulary": (lambda f: edit(f, vocab_size=10**12), "values"),
    "a vast width": (lambda f: edit(f, intermediate_size=10**12), "values"),
    "another vocabulary": (lambda f: edit(f, vocab_size=VOCABULARY + 7), "shape"),
    "weights missing": (lambda f: retensor(f, lambda t: t.pop("model.norm.weight")), "missing: model.norm.weight"),
    "weights left over": (lambda f: retensor(f, lambda t: t.update(odd=torch.ones(3))), "no place for: odd"),
    "weights NaN": (lambda f: retensor(f, poison), "model.norm.weight holds NaN"),
    "weights truncated": (lambda f: cut(f, 20_000), "truncated"),
    "header truncated": (lambda f: cut(f, 200), "claims a header"),
    "nearly empty": (lambda f: cut(f, 5), "claims a header"),
    "stray bytes": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"123"), "stray"),
    "header of 2**63 bytes": (lambda f: claim(f, 2**63), "claims a header of 9,223"),
    "header of 2**64-1 bytes": (lambda f: claim(f, 2**64 - 1), "claims a header"),
    "header too short": (lambda f: claim(f, 30), "not JSON"),
    "header a list": (lambda f: reheader(f, lambda e: [1, 2]), "not a JSON object"),
    "entry a word": (lambda f: reheader(f, lambda e: e.update({"model.norm.weight": "x"})), "damaged header"),
    "shape overflows": (lambda f: reheader(f, entry(shape=[2**62, 2**62, 4])), "does not fill"),
    "shape negative": (lambda f: reheader(f, entry(shape=[-1, -32])), "does not fill"),
    "shape of fractions": (lambda f: reheader(f, entry(shape=[32.0])), "does not fill"),
    "unknown type": (lambda f: reheader(f, entry(dtype="F17")), "unknown type F17"),
    "tensors overlap": (lambda f: reheader(f, entry(data_offsets=[0, 128])), "starts at"),
    "index escapes": (lambda f: index(f, {"weight_map": {"a": "../x.safetensors"}}), "not a safetensors file in"),
    "index names nothing": (lambda f: index(f, {"weight_map": {"a": "gone.safetensors"}}), "is not there"),
    "index without map": (lambda f: index(f, {"metadata": {}}), "weight_map"),
    "index lies": (lambda f: index(f, {"weight_map": {"odd": "part.safetensors"}}), "which it does not"),
    "generation not JSON": (lambda f: (f / "generation_config.json").write_text("x"), "generation_config.json: not"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_folder_gets_one_line(tmp_path, case):
    spoil, says = HOSTILE[case]
    spoil(checkpoint(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataProblem, match=says) as caught:
        load(tmp_path, torch.float32, "eager")
    assert caught.value.code == 3
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


@pytest.mark.parametrize("name", ["nothing-here", "a/b/c", ""])
def test_a_name_that_is_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataProblem):
        load(name or "file.txt", torch.float32)


def test_an_unreachable_hub_is_said(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceProblem, match="no-one/no-model: not a folder here"):
        load("no-one/no-model", torch.float32)


# GGUF


def test_gguf_becomes_a_standard_folder_once(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_gguf(tmp_path / "tiny.gguf", tiny())
    folder = resolve(path)
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == torch.float32
    assert torch.allclose(logits(plain), logits(tiny()), atol=1e-5)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    made = (folder / WEIGHTS).stat().st_mtime_ns
    again = load(tmp_path, torch.float32, "sdpa")  # the folder of one .gguf
    assert torch.equal(logits(again), logits(plain))
    assert (folder / WEIGHTS).stat().st_mtime_ns == made
    os.utime(path, (1, 1))
    assert (resolve(path) / WEIGHTS).stat().st_mtime_ns != made
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("12 ab<extra0>") == ["1", "2", "Ġ", "ab", "<extra0>"]  # digits apart, marks whole


def test_an_unknown_word_splitting_is_refused(tmp_path):
    with pytest.raises(DataProblem, match="zigzag"):
        convert_gguf(write_gguf(tmp_path / "tiny.gguf", tiny(), "zigzag"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["tiny.gguf"]


def gguf(tensors: int = 0, keys: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


LIES = {
    "terabytes of tensors": (gguf(tensors=2**40, rest=b"\x00" * 81), "claims 1,099,511,627,776 tensors"),
    "2**64-1 keys": (gguf(keys=2**64 - 1, rest=b"\x00" * 50), "keys in a file"),
    "a vast key": (gguf(keys=1, rest=struct.pack("<Q", 2**60) + b"x" * 40), "a key claims"),
    "a vast string": (gguf(keys=1, rest=text("k") + struct.pack("<IQ", 8, 2**50) + b"x" * 20), "k claims"),
    "a vast array": (gguf(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 4, 2**50) + b"x" * 20), "values of k"),
    "a deep array": (gguf(keys=1, rest=text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50), "value type"),
    "an unknown value": (gguf(keys=1, rest=text("k") + struct.pack("<IQ", 77, 0)), "unknown value type 77"),
    "a key twice": (gguf(keys=2, rest=(text("k") + struct.pack("<II", 4, 1)) * 2), "twice"),
    "a vast tensor": (gguf(1, rest=text("t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0)), "ends at byte"),
    "a far offset": (gguf(1, rest=text("t") + struct.pack("<IQIQ", 1, 4, 0, 2**62)), "ends at byte"),
    "many axes": (gguf(1, rest=text("t") + struct.pack("<I", 2**31) + b"\x00" * 40), "axes"),
    "an unknown type": (gguf(1, rest=text("t") + struct.pack("<IQIQ", 1, 4, 999, 0)), "unknown type 999"),
    "another version": (gguf(version=9), "version 9"),
    "the other byte order": (gguf(version=3 << 24), "little-endian"),
    "no magic": (b"GGML" + b"\x00" * 40, "not a GGUF file"),
    "too short": (b"GGUF", "not a GGUF file"),
    "merges of nothing": (None, "cannot read it"),
    "nothing in it": (gguf(), "cannot read it"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_gguf_gets_one_line(tmp_path, case):
    data, says = LIES[case]
    path = tmp_path / "lie.gguf"
    if data is None:
        write_gguf(path, tiny(), merges=["q z"])
    else:
        path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataProblem, match=says) as caught:
        load(path, torch.float32)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    assert os.listdir(tmp_path) == ["lie.gguf"]


def test_a_gguf_cut_anywhere_is_refused(tmp_path):
    whole = write_gguf(tmp_path / "tiny.gguf", tiny()).read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 600, 7), *range(600, len(whole) - 32, 1999)]:
        path.write_bytes(whole[:size])
        with pytest.raises(Problem):
            check(path)
