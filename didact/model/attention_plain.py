"""Attention by the dense mask: the oracle of the fast paths, and the path of dropout and of devices without one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from didact.model.sight import Sight, allowed


def oracle(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Equation by equation, scores and softmax in fp32 at least: query [B, H, Q, hd], key and value [B, K, S, hd]."""
    group = query.shape[1] // key.shape[1]
    wide = torch.promote_types(query.dtype, torch.float32)
    k, v = (x.repeat_interleave(group, dim=1) for x in (key, value))  # [B, H, S, hd]
    score = query.to(wide) @ k.to(wide).transpose(-1, -2) * scale  # [B, H, Q, S]
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    hidden = ~sight.derive(allowed, key.shape[2], window)[:, None]
    # the lowest number and not -inf: padding that sees nothing stays finite
    weight = score.masked_fill(hidden, torch.finfo(wide).min).softmax(-1)
    return F.dropout(weight, dropout).to(v.dtype) @ v  # [B, H, Q, hd]


def masked(
    query: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float, window: int | None, dropout: float
) -> Tensor:
    """torch's own kernel under the dense mask, for devices without a fast path of their own; shapes as ``oracle``."""
    mask = sight.derive(allowed, key.shape[2], window)[:, None]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale, enable_gqa=True
    )
