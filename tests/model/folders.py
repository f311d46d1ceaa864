"""Tiny checkpoint folders of several architectures, for the tests of loading, tuning and saving."""

import struct
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 280
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "llama": SMALL | {"tie_word_embeddings": True},
    "qwen3": SMALL | {"tie_word_embeddings": False},
    "gemma3_text": SMALL | {"query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def tiny(architecture: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **fields) -> PreTrainedModel:
    torch.manual_seed(seed)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": VOCABULARY, "initializer_range": 0.1}
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture] | ids | fields)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes after three marks: ids 0 to 258."""
    words = ["<bos>", "<eos>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **marks)


def checkpoint(folder: Path, architecture: str = "llama", **fields) -> Path:
    tiny(architecture, **fields).save_pretrained(folder)
    return folder


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(24).view(2, 12) * 7 % 250  # [2, 12]
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def jolt(model: PreTrainedModel, size: float = 0.05) -> None:
    """Moves every trainable number, as training would."""
    generator = torch.Generator().manual_seed(7)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += (size * torch.randn(weight.shape, generator=generator)).to(weight.dtype)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write_gguf(path: Path, model: PreTrainedModel, splitting: str = "smollm", merges=("a b", "1 2")) -> Path:
    """A tiny llama as llama.cpp writes it: its tensor names, and query and key rows in its rotary order."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCABULARY)
    words = [*tiny_tokenizer().convert_ids_to_tokens(range(259)), "ab", "12"]
    tokens = words + [f"<extra{i}>" for i in range(VOCABULARY - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 or i >= len(words) else 1 for i in range(VOCABULARY)])
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    parts |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    state = model.state_dict()
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for i in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            weight = state[f"model.layers.{i}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                heads = weight.shape[0] // config.head_dim
                weight = weight.view(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(weight.shape)
            writer.add_tensor(f"blk.{i}.{theirs}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
