"""A model of a few thousand parameters as a checkpoint folder, and the files of a run that goes well."""

import json
import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from didact.model.save import save_model
from didact.text import tokenizer as tokenizers

SENTENCES = [f"The {colour} {thing} is number {n}." for n in range(6) for colour in ("red", "blue") for thing in "abc"]
POSITIONS = 128


def make_base(folder: Path) -> Path:
    """The folder of a model that knows nothing, with a tokenizer of its own."""
    tokenizer = tokenizers.train(SENTENCES, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(LlamaForCausalLM(config), tokenizer, folder)
    return folder


def lines(records: list[dict]) -> str:
    """JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def documents(count: int = 20) -> str:
    """Plain documents."""
    return lines([{"text": SENTENCES[i % len(SENTENCES)]} for i in range(count)])


def chats(count: int = 8) -> str:
    """Conversations of one question and one answer."""
    return lines(
        [
            {
                "messages": [
                    {"role": "user", "content": f"Which is {i}?"},
                    {"role": "assistant", "content": SENTENCES[i % len(SENTENCES)]},
                ]
            }
            for i in range(count)
        ]
    )


RECIPE = """\
name: r
base: ./base
stages:
  - pretrain: {data: docs.jsonl, context: 32, batch_size: 2, max_steps: 1}
"""
TALK = """\
name: r
base: ./base
stages:
  - finetune: {data: chats.jsonl, context: 64, batch_size: 2, max_steps: 1}
"""


def make_world(folder: Path, base: Path) -> None:
    """A base, documents, conversations and two recipes that run to their end."""
    shutil.rmtree(folder / "base", ignore_errors=True)
    shutil.copytree(base, folder / "base")
    (folder / "docs.jsonl").write_text(documents())
    (folder / "chats.jsonl").write_text(chats())
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "talk.yaml").write_text(TALK)
