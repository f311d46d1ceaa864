"""Attention of few new tokens on a cache: plain products with the query heads of a key head folded into rows."""

from __future__ import annotations

import torch
from torch import Tensor

from didact.model.sight import Sight, allowed

# A long prompt goes through in pieces, so that its scores never stand whole in memory.
QUERIES = 256
# CPU products in bf16 with a handful of queries spend most of their time on laying out the keys: up to SMALL numbers,
# fp32 copies are faster for the scores, and with up to FEW key heads in all for the values too.
SMALL, FEW = 1 << 22, 8


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """query [B, H, Q, hd], cache key and value [B, K, S, hd] -> [B, H, Q, hd]; softmax in fp32."""
    pieces = []
    for first, last, slots, bias in sight.derive(pieces_of, key.shape[2], window):
        q, k, v = query[:, :, first:last], key[:, :, :slots], value[:, :, :slots]
        pieces.append(piece(q, k, v, bias, scale, softcap))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def piece(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """query [B, H, Q, hd] on the slots given."""
    rows, heads, queries, width = query.shape
    folded = query.reshape(rows * key.shape[1], -1, width)  # [B * K, G * Q, hd]
    keys, values = key.flatten(0, 1), value.flatten(0, 1)  # [B * K, S, hd]
    if key.device.type == "cpu" and keys.numel() <= SMALL:
        folded, keys = folded.float(), keys.float()
        values = values.float() if len(keys) <= FEW else values
    score = torch.bmm(folded, keys.transpose(1, 2)).float() * scale  # [B * K, G * Q, S]
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    if bias is not None:
        score = (score.view(rows, key.shape[1], -1, queries, score.shape[-1]) + bias).view_as(score)
    return torch.bmm(score.softmax(-1).to(values.dtype), values).to(query.dtype).view(rows, heads, queries, width)


def pieces_of(sight: Sight, keys: int, window: int | None) -> list[tuple[int, int, int, Tensor | None]]:
    """Query ranges with the number of slots they can see and the bias [B, 1, 1, Q, slots] that hides the rest."""
    reach = sight.reach
    on_cpu = reach.device.type == "cpu"  # elsewhere the look would wait for the device
    pieces: list[tuple[int, int, int, Tensor | None]] = []
    for first in range(0, reach.shape[1], QUERIES):
        last = min(first + QUERIES, reach.shape[1])
        part = Sight.decode(reach[:, first:last])
        slots = min(keys, max(1, int(part.reach.max()) + 1)) if on_cpu else keys
        sees = allowed(part, slots, window)
        if on_cpu and bool(sees.all()):
            pieces.append((first, last, slots, None))
        else:
            bias = torch.zeros(sees.shape, device=reach.device).masked_fill_(~sees, torch.finfo(torch.float32).min)
            pieces.append((first, last, slots, bias[:, None, None]))
    return pieces
