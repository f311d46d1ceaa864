"""Tiny networks of several architectures, with weights large enough that greedy decoding wanders."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from didact.model import attention
from didact.model.model import Model

VOCABULARY = 61
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
ARCHITECTURES = {
    "llama": SMALL,
    "qwen3": SMALL,
    "mistral": SMALL | {"sliding_window": 5},
    "gemma2": SMALL | {"sliding_window": 5, "query_pre_attn_scalar": 8},
    "gemma3_text": SMALL
    | {"sliding_window": 5, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}


def model(architecture: str = "llama", seed: int = 0, **fields) -> Model:
    attention.register()
    torch.manual_seed(seed)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": VOCABULARY, "initializer_range": 0.3}
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture] | ids | fields)
    net = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="reach").eval()
    return Model(net)


def letters(tokens) -> str:
    """A decoder for tests: a letter a token."""
    return "".join(chr(0x100 + token) for token in tokens)
