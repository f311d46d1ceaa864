"""The one attention function of every model, registered with transformers under the name ``reach``.

It reads one keyword argument of the model's forward, ``sight``, and sends it to the device's fast path: per-document
products on CPU, FlexAttention on CUDA, the dense mask elsewhere and, but on CPU, wherever attention dropout is on.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from didact.errors import UsageProblem
from didact.model import attention_cpu, attention_decode, attention_gpu, attention_plain
from didact.model.sight import Sight

__all__ = ["NAME", "Sight", "attend", "register"]

NAME = "reach"

# What models hand on that changes nothing here: `reach` alone says who sees whom, and nothing but the output returns.
HARMLESS = frozenset({
    "position_ids", "cache_position", "position_embeddings", "is_causal", "deterministic", "inputs_embeds",
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits",
    "num_items_in_batch", "logits_to_keep",
})  # fmt: skip


def register() -> None:
    """Make ``attn_implementation="reach"`` known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, no_mask)


def no_mask(*args: Any, **kwargs: Any) -> None:
    """transformers' mask of this attention: none, for ``Sight`` says it all."""
    return None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sight: Sight | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' signature: query [B, H, Q, hd], key and value [B, K, S, hd] -> ([B, Q, H, hd], None).

    Raises UsageProblem for a model that needs what this attention lacks (sinks, position biases).
    """
    checked = check(module, query, key, attention_mask, sight, others)
    # A norm with fp32 weights under autocast leaves query and key wider than the linear layers' own type.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = dispatch(query, key, value, checked, scale, sliding_window, softcap, dropout)
    return out.transpose(1, 2).contiguous(), None


def dispatch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The fastest path that computes this, [B, H, Q, hd]; all equal ``attention_plain.oracle``."""
    if query.device.type == "cpu" and sight.doc is not None and sight.branches:
        return attention_cpu.attention(query, key, value, sight, scale, window, softcap, dropout)
    if dropout == 0.0:
        if sight.doc is None:
            return attention_decode.attention(query, key, value, sight, scale, window, softcap)
        if query.device.type == "cuda":
            return attention_gpu.attention(query, key, value, sight, scale, window, softcap)
    if softcap is None:
        return attention_plain.masked(query, key, value, sight, scale, window, dropout)
    return attention_plain.oracle(query, key, value, sight, scale, window, softcap, dropout)


def check(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, sight: Sight | None, others: dict[str, Any]
) -> Sight:
    """The sight, or one line on what is missing or cannot be honoured."""
    name = type(module).__name__
    if sight is None:
        raise UsageProblem(f"{name} was run without `sight`", remedy="call the model with sight=Sight(doc, reach)")
    if mask is not None:
        raise UsageProblem(f"{name} was given an attention mask", remedy="say who sees whom by `reach` instead")
    foreign = sorted(key for key, value in others.items() if value is not None and key not in HARMLESS)
    if foreign:
        raise UsageProblem(
            f"{name} needs attention with {', '.join(foreign)}, which Didact does not compute",
            remedy="choose a model of another architecture",
        )
    rows, tokens = sight.reach.shape
    keys = tokens if sight.doc is not None else key.shape[2]
    if (query.shape[0], query.shape[2], key.shape[2]) != (rows, tokens, keys):
        raise UsageProblem(
            f"{name} attends from {list(query.shape)} to {list(key.shape)}, but `sight` is of {rows} x {tokens} tokens",
            remedy="use Sight.decode with a cache; cross-attention is not supported",
        )
    return sight
