"""FlexAttention on CUDA: one fused kernel that skips the blocks nobody sees (Dong et al. 2024, arXiv:2412.05496)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from didact.model.sight import Sight, check_window


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    kernel: Callable[..., Tensor] | None = None,
) -> Tensor:
    """query [B, H, T, hd], key and value [B, K, T, hd] -> [B, H, T, hd]; ``kernel`` replaces the compiled one."""
    flex = kernel or compiled()
    mask = sight.derive(block_mask, window)
    return flex(query, key, value, score_mod=capped(softcap), block_mask=mask, scale=scale, enable_gqa=True)


@cache
def compiled() -> Callable[..., Tensor]:
    """The fused kernel; uncompiled, flex_attention would write out every score."""
    return torch.compile(flex_attention, dynamic=True)


@cache
def capped(softcap: float | None) -> Callable[..., Tensor] | None:
    """``cap * tanh(x / cap)`` (Gemma 2) as a score function: one object a cap, so that nothing recompiles."""
    if softcap is None:
        return None
    return lambda score, b, h, q, k: softcap * torch.tanh(score / softcap)


def block_mask(sight: Sight, window: int | None) -> BlockMask:
    """The blocks of 128 x 128 anybody sees, and the rule inside them."""
    assert sight.doc is not None, "flex_attention serves rows of documents; decoding has its own path"
    doc, reach, order = sight.doc, sight.reach, sight.order
    if order is not None and window is not None:
        check_window(window, doc.shape[1])
        window = None

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        inside = (doc[b, q] == doc[b, k]) & (k <= reach[b, q])
        if order is not None:
            mine, other = order[b, q], order[b, k]
            inside = inside & ((mine == other) | ((other % 2 == 0) & (other < mine)))
        return inside if window is None else inside & (q - k < window) & (k - q < window)

    rows, tokens = doc.shape
    return create_block_mask(sees, rows, None, tokens, tokens, device=doc.device)
