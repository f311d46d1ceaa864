"""Models that say what they are told: the next token is a function of the last one."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from didact.model.save import save_model
from didact.text import tokenizer as tokenizers

VOCABULARY = 259  # bytes and the marks of ChatML
WIDTH = 260


def speaker(folder: Path, follows: Mapping[str, str], positions: int = 512, stops: tuple[str, ...] = ()) -> Path:
    """A checkpoint whose answer to anything begins with what follows a line break; all else ends the turn.

    Every layer adds nothing, the embedding is the identity and the head a table of successors. ``stops`` are written
    as the end-of-sequence ids of its generation settings.
    """
    tokenizer = tokenizers.train(["abc"], VOCABULARY)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    net = LlamaForCausalLM(config)
    layer = net.model.layers[0]
    ids = {name: tokenizer.encode(name, add_special_tokens=False)[0] for pair in follows.items() for name in pair}
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        net.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY, WIDTH))
        net.lm_head.weight.zero_()
        successor = dict.fromkeys(range(VOCABULARY), tokenizer.eos_token_id)
        successor |= {ids[name]: ids[then] for name, then in follows.items()}
        for token, then in successor.items():
            net.lm_head.weight[then, token] = 4.0
    save_model(net, tokenizer, folder, stops=[tokenizer.convert_tokens_to_ids(stop) for stop in stops])
    return folder


def chain(text: str) -> dict[str, str]:
    """Successors that say ``text``, of which no character comes twice."""
    return dict(zip(["\n", *text], text, strict=False))
