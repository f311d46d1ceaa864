"""Models, tokenizers and machines that are wrong."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import orjson

from tests.battery.case import Case, Spoil, both, cut, drop, edit, nothing, recipe, write

RUN, TALK = "run recipe.yaml", "run talk.yaml"
PRETRAIN = "{pretrain: {data: docs.jsonl, context: 32, batch_size: 2, max_steps: 1}}"
WEIGHTS = "base/model.safetensors"


class Evil:
    """Unpickled, it would leave a file."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def based(name: str) -> Spoil:
    return recipe(PRETRAIN, base=name)


def other_header(change) -> Spoil:
    """Changes the header of the weights."""

    def spoil(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        head = orjson.dumps(change(orjson.loads(data[8 : 8 + length])))
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])

    return spoil


def not_a_number(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, folder / WEIGHTS)


def another_vocabulary(folder: Path) -> None:
    """A tokenizer of more tokens than the model has rows."""
    from didact.text import tokenizer

    trained = tokenizer.load(folder / "base")
    trained.add_tokens([f"<new{i}>" for i in range(50)])
    tokenizer.save(trained, folder / "base", 128)


def template(text: str) -> Spoil:
    return both(drop("base/chat_template.jinja"), edit("base/tokenizer_config.json", chat_template=text))


def gguf(tensors: int, keys: int, rest: bytes = b"") -> Spoil:
    return both(
        write("m.gguf", b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest),
        based("m.gguf"),
    )


def adapter(**config) -> Spoil:
    """An adapter folder that names its base."""
    return both(
        write("lora/adapter_config.json", json.dumps({"peft_type": "LORA", "r": 2, **config})),
        write("lora/adapter_model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        lambda folder: [shutil.copy(p, folder / "lora") for p in (folder / "base").glob("token*")],
        based("./lora"),
    )


def as_folder(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


CASES = [
    # --- weights --------------------------------------------------------------------------------------------
    Case("cut weights", cut(WEIGHTS, 0.9), RUN, 3, "model.safetensors: is truncated"),
    Case("weights cut in their header", cut(WEIGHTS, 0.01), RUN, 3, "model.safetensors: claims a header"),
    Case("empty weights", write(WEIGHTS, b""), RUN, 3, "model.safetensors"),
    Case("garbage weights", write(WEIGHTS, os.urandom(5000)), RUN, 3, "model.safetensors"),
    Case("stray bytes", lambda w: (w / WEIGHTS).open("ab").write(b"x" * 9), RUN, 3, "stray bytes"),
    Case("header without tensors", write(WEIGHTS, b"\x02\0\0\0\0\0\0\0{}"), RUN, 3, "base"),
    Case("tensor gone", other_header(lambda h: {k: v for k, v in h.items() if "norm" not in k}), RUN, 3, "starts at"),
    Case("NaN weights", not_a_number, RUN, 3, "holds NaN"),
    Case("no weights", drop(WEIGHTS), RUN, 3, "no model.safetensors"),
    Case(
        "hostile pickle", both(drop(WEIGHTS), write("base/pytorch_model.bin", pickle.dumps(Evil()))), RUN, 3, "pickled"
    ),
    Case("pickle as base", both(write("m.pt", pickle.dumps(Evil())), based("m.pt")), RUN, 3, "not a checkpoint folder"),
    Case("pickle as safetensors", write(WEIGHTS, pickle.dumps(Evil())), RUN, 3, "model.safetensors"),
    Case(
        "pickle as adapter",
        both(
            adapter(base_model_name_or_path="./base"),
            drop("lora/adapter_model.safetensors"),
            write("lora/adapter_model.bin", pickle.dumps(Evil())),
        ),
        RUN,
        3,
        "lora",
    ),
    # --- configuration --------------------------------------------------------------------------------------
    Case("cut configuration", cut("base/config.json", 0.5), RUN, 3, "config.json"),
    Case("configuration as list", write("base/config.json", "[]"), RUN, 3, "config.json"),
    Case("no configuration", drop("base/config.json"), RUN, 3, "no config.json"),
    Case("configuration as folder", as_folder("base/config.json"), RUN, 3, "config.json"),
    Case("unknown model", edit("base/config.json", model_type="mine"), RUN, 3, "names no architecture"),
    Case(
        "code of its own",
        edit("base/config.json", model_type="mine", auto_map={"AutoConfig": "evil.Config"}),
        RUN,
        3,
        "models that bring their own code are not loaded",
    ),
    Case(
        "code beside a known model",
        both(
            write("base/evil.py", "open('ran', 'w')"),
            edit("base/config.json", auto_map={"AutoModelForCausalLM": "evil.M"}),
        ),
        RUN,
        0,
        "20 examples",
        done=1,
    ),
    Case("endless layers", edit("base/config.json", num_hidden_layers=10**9), RUN, 3, "num_hidden_layers"),
    Case("endless vocabulary", edit("base/config.json", vocab_size=10**12), RUN, 3, "config.json"),
    Case("other width", edit("base/config.json", hidden_size=64), RUN, 3, "base"),
    Case("no heads", edit("base/config.json", num_attention_heads=0), RUN, 3, "config.json"),
    Case("a layer more", edit("base/config.json", num_hidden_layers=3), RUN, 3, "weights missing"),
    Case("a layer less", edit("base/config.json", num_hidden_layers=1), RUN, 3, "no place for"),
    Case("word for a width", edit("base/config.json", hidden_size="wide"), RUN, 3, "config.json"),
    Case("quantised", edit("base/config.json", quantization_config={"quant_method": "gptq"}), RUN, 3, "is quantised"),
    Case("encoder", edit("base/config.json", model_type="clip_vision_model"), RUN, 3, "config.json"),
    Case("broken generation settings", write("base/generation_config.json", "{"), RUN, 3, "generation_config.json"),
    # --- tokenizer ------------------------------------------------------------------------------------------
    Case("cut tokenizer", cut("base/tokenizer.json", 0.5), RUN, 3, "tokenizer.json"),
    Case("tokenizer of nothing", write("base/tokenizer.json", "{}"), RUN, 3, "tokenizer.json: not a tokenizer"),
    Case("tokenizer as list", write("base/tokenizer.json", "[]"), RUN, 3, "tokenizer.json"),
    Case("no tokenizer", drop("base/tokenizer.json", "base/tokenizer_config.json"), RUN, 3, "no tokenizer"),
    Case("broken settings", write("base/tokenizer_config.json", "{,}"), RUN, 3, "tokenizer_config.json:1"),
    Case("another vocabulary", another_vocabulary, RUN, 3, "the model's table"),
    Case("no end", edit("base/tokenizer_config.json", eos_token=None), RUN, 3, "no end-of-sequence token"),
    Case("template with an error", template("{% for m in %}"), TALK, 3, "template"),
    Case("template without answers", template("{{ messages[0].content }}<|im_end|>"), TALK, 3, "template"),
    Case("template that reaches out", template("{{ ''.__class__.__mro__ }}"), TALK, 3, "template"),
    # --- folders and files ----------------------------------------------------------------------------------
    Case("empty base", both(lambda w: (w / "none").mkdir(), based("./none")), RUN, 3, "none"),
    Case("no such base", based("./absent/model/x"), RUN, 3, "no such checkpoint"),
    Case("file as base", based("docs.jsonl"), RUN, 3, "docs.jsonl: not a checkpoint folder"),
    Case("data folder as base", both(write("d/a.txt", "x"), based("./d")), RUN, 3, "no config.json"),
    Case("pointer to nowhere", both(write("old/model.path", "stages/gone/model\n"), based("./old")), RUN, 3, "old"),
    Case("adapter without base", adapter(), RUN, 3, "base_model_name_or_path"),
    Case("adapter of itself", adapter(base_model_name_or_path="../lora"), RUN, 3, "lora"),
    Case("adapter of nothing", adapter(base_model_name_or_path="./gone/away/x"), RUN, 3, "no such checkpoint"),
    # --- GGUF -----------------------------------------------------------------------------------------------
    Case("no GGUF", both(write("m.gguf", b"nonsense" * 9), based("m.gguf")), RUN, 3, "m.gguf: not a GGUF file"),
    Case("GGUF of a head", gguf(0, 0), RUN, 3, "m.gguf"),
    Case("GGUF of many tensors", gguf(2**60, 0), RUN, 3, "m.gguf: claims"),
    Case("GGUF of many keys", gguf(0, 2**60), RUN, 3, "m.gguf: claims"),
    Case("GGUF with a long key", gguf(0, 1, struct.pack("<Q", 2**40) + b"x" * 40), RUN, 3, "m.gguf"),
    Case("GGUF of another version", both(write("m.gguf", b"GGUF" + b"\xff" * 40), based("m.gguf")), RUN, 3, "version"),
    # --- chat -----------------------------------------------------------------------------------------------
    Case("chat with cut weights", cut(WEIGHTS, 0.9), "chat base --prompt x", 3, "is truncated"),
    Case("chat with a stranger's tokenizer", another_vocabulary, "chat base --prompt x", 3, "the model's table"),
    Case("chat with a run without model", lambda w: (w / "runs/x").mkdir(parents=True), "chat runs/x", 3, "runs/x"),
    Case("chat with a recipe", nothing, "chat recipe.yaml", 3, "recipe.yaml: not a checkpoint folder"),
    Case("chat beyond the model", nothing, f"chat base --prompt '{'word ' * 300}'", 2, "fewer than 128"),
]
