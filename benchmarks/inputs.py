"""What every side reads, the same on each run: conversations, rows for pretraining, prompts, and the models."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Inputs, Plan

MEAN, SIGMA, SHORTEST, LONGEST = 180, 0.7, 24, 1024  # tokens of a conversation, lognormal
PRETRAIN_ROW, PRETRAIN_VOCABULARY = 512, 4096
ENCODER_VOCABULARY = 4096
RANK = 16
NEW_TOKENS = 128
ANSWER = 32  # tokens of a served answer
HEROES = ("fox", "baker", "clockmaker", "pilot", "girl", "robot", "king", "cat", "farmer", "diver", "owl", "thief")
THINGS = ("river", "lantern", "train", "key", "storm", "violin", "map", "bridge", "letter", "garden", "boat", "mirror")
PLACES = ("the desert", "a small town", "the far north", "a lighthouse", "an old castle", "the big city", "a forest")
MODULES = ("typing", "argparse", "inspect", "subprocess", "tarfile", "logging/__init__", "decimal", "datetime")


def smollm2() -> Path:
    """The checkpoint folder of SmolLM2-135M-Instruct."""
    from didact.data.fetch import cache_dir
    from didact.run.life import find_model

    return find_model("smollm2-135m-instruct", cache_dir(), print)


def gguf() -> str:
    """The file it was published as, for llama.cpp."""
    from didact.data.fetch import cache_dir, fetch

    return str(next(fetch("smollm2-135m-instruct", cache_dir(), print).rglob("*.gguf")))


def text() -> str:
    """Sources of Python's own library: real text that is on every machine."""
    library = Path(sysconfig.get_path("stdlib"))
    return "\n".join((library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES)


def encoder(folder: Path) -> Callable[[str], list[int]]:
    """Text to ids, nothing added."""
    from didact.text import tokenizer as tokenizers

    encode = tokenizers.load(folder).backend_tokenizer.encode
    return lambda part: encode(part, add_special_tokens=False).ids


def ragged(count: int, mean: float = MEAN, seed: int = 0) -> list[int]:
    """Lognormal lengths with this mean."""
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, count)
    return drawn.round().astype(int).clip(SHORTEST, LONGEST).tolist()


def conversations(folder: Path, plan: Plan) -> list[list[Any]]:
    """Steps of ``[tokens, prompt tokens]``: a user's turn in ChatML, which is only read, and the answer to it."""
    encode = encoder(folder)
    user, assistant, end = (
        encode(part) for part in ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n")
    )
    stream = endless(encode(text()))
    lengths = iter(ragged(plan.steps * plan.documents))
    shares = iter(np.random.default_rng(1).uniform(0.15, 0.5, plan.steps * plan.documents).tolist())

    def conversation() -> list[Any]:
        room = next(lengths) - len(user) - len(assistant) - len(end)
        asked = round(next(shares) * room)
        prompt = [*user, *(next(stream) for _ in range(asked)), *assistant]
        return [[*prompt, *(next(stream) for _ in range(room - asked)), *end], len(prompt)]

    return [[conversation() for _ in range(plan.documents)] for _ in range(plan.steps)]


def endless(tokens: list[int]) -> Iterator[int]:
    while True:
        yield from tokens


def finetuning(folder: Path, plan: Plan) -> Inputs:
    """Weights rounded to bf16, as SmolLM2 was published: masters and autocast then start from the same numbers."""
    import torch
    from transformers import AutoModelForCausalLM

    source, model = smollm2(), folder / "base"
    if not model.is_dir():
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(model)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(source / name, model / name)
    return Inputs(str(model), conversations(model, plan))


def adapting(folder: Path, plan: Plan) -> Inputs:
    """As fine-tuning, and one adapter folder that both sides start from."""
    import torch

    from didact.model import attention, lora
    from didact.model.load import load
    from didact.model.settings import Lora

    inputs = finetuning(folder, plan)
    attention.register()
    net = load(inputs.model, torch.float32)
    lora.add(net, Lora(rank=RANK), seed=0)
    lora.save_adapter(net, folder / "adapter", inputs.model)
    return Inputs(inputs.model, inputs.steps, {"adapter": str(folder / "adapter")})


def pretraining(folder: Path, plan: Plan) -> Inputs:
    """A Llama of 12.4M parameters as initialised, and rows of 512 tokens of bytes paired into 4,096 ids."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=PRETRAIN_VOCABULARY,
        hidden_size=384,
        intermediate_size=960,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=PRETRAIN_ROW,
        tie_word_embeddings=False,  # litgpt cannot tie them
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "scratch")
    data = np.frombuffer(text().encode(), np.uint8).astype(np.int64)
    pairs = (data[: len(data) // 2 * 2].reshape(-1, 2) @ np.array([31, 1])) % PRETRAIN_VOCABULARY
    rows = np.resize(pairs, (plan.steps, plan.documents, PRETRAIN_ROW)).tolist()
    return Inputs(str(folder / "scratch"), [[[row, 0] for row in step] for step in rows])


def masking(folder: Path, plan: Plan) -> Inputs:
    """A BERT of 12M parameters as initialised, its tokenizer, and documents of ragged length."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from didact.text import tokenizer as tokenizers

    model = folder / "encoder"
    tokenizer = tokenizers.with_mask(tokenizers.train([text()], ENCODER_VOCABULARY))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(model)
    tokenizers.save(tokenizer, model, LONGEST)
    stream = endless(encoder(model)(text()))
    lengths = iter(ragged(plan.steps * plan.documents))
    steps = [
        [[[next(stream) for _ in range(next(lengths))], 0] for _ in range(plan.documents)] for _ in range(plan.steps)
    ]
    return Inputs(str(model), steps)


def prompting(folder: Path, plan: Plan) -> Inputs:
    """Requests of one prompt and of sixteen, ``warmup`` and ``measured`` of each; prompts of about 64 tokens."""
    model = smollm2()
    stream = endless(encoder(model)(text()))
    sizes = [1] * plan.steps + [plan.documents] * plan.steps
    lengths = iter(np.random.default_rng(2).integers(48, 81, sum(sizes)).tolist())
    requests = [[[next(stream) for _ in range(next(lengths))] for _ in range(size)] for size in sizes]
    return Inputs(str(model), requests, {"gguf": gguf(), "new_tokens": NEW_TOKENS})


def serving(folder: Path, plan: Plan) -> Inputs:
    """Questions for a server, as many clients as the plan has documents, for as many seconds as it measures."""
    extra = {"clients": plan.documents, "seconds": plan.measured, "new_tokens": ANSWER, "gguf": gguf(), "room": 256}
    return Inputs(str(smollm2()), [stories()], extra)


def stories() -> list[str]:
    """Prompts of some 20 tokens, no two alike."""
    there = [f"a {hero} and a {thing} in {place}" for hero, thing, place in product(HEROES, THINGS, PLACES)]
    order = np.random.default_rng(4).permutation(len(there))
    return [f"Write a short story about {there[i]}." for i in order.tolist()]


def minilm(folder: Path) -> Path:
    """all-MiniLM-L6-v2 without dropout, so that losses compare."""
    from didact.data.fetch import cache_dir
    from didact.run.life import find_model

    model = folder / "minilm"
    if not model.is_dir():
        shutil.copytree(find_model("all-minilm-l6-v2", cache_dir(), print), model)
        config = json.loads((model / "config.json").read_text())
        write(model / "config.json", config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    return model


def contrasting(folder: Path, plan: Plan) -> Inputs:
    """What an object of Python's library does and its page, ``documents`` pairs a step."""
    from didact.data.domain.stdlib import python_stdlib

    python_stdlib(folder / "pairs", 0.0, 0)
    lines = [json.loads(line) for line in (folder / "pairs" / "pairs.jsonl").read_text().splitlines()]
    order = np.random.default_rng(3).permutation(len(lines))[: plan.steps * plan.documents]
    pairs = [[lines[i]["anchor"], lines[i]["positive"]] for i in order.tolist()]
    size = plan.documents
    return Inputs(str(minilm(folder)), [pairs[n * size : (n + 1) * size] for n in range(plan.steps)])


def encoding(folder: Path, plan: Plan) -> Inputs:
    """The pages alone, ``documents`` texts a request."""
    made = contrasting(folder, plan)
    return Inputs(made.model, [[page for _, page in step] for step in made.steps])


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path
