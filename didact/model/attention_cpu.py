"""Attention on CPU, document by document in blocks of queries, as plain products with a backward of their own.

torch's CPU kernel for bf16 spends a third of a training step, mostly in its backward; batched products run near the
processor's peak. The query heads that share a key head are folded into the rows of a product, so keys and values are
never repeated, and a block of queries multiplies only the keys somebody in it can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from didact.model.sight import Sight

# Queries of a block: more would multiply keys that most of them cannot see, fewer would make thin products.
QUERIES = 256
# Keys up to which a block's probabilities are kept for the backward; beyond, memory grows with the square.
KEEP = 1024


@dataclass(frozen=True)
class Block:
    """Queries [first, last) of row ``row`` and the keys [low, high) that one of them sees."""

    row: int
    first: int
    last: int
    low: int
    high: int
    hide: tuple[tuple[int, int, Tensor], ...]  # columns [a, b) of the scores and the bias [rows, b - a] added to them


def blocks_of(sight: Sight, window: int | None, dtype: torch.dtype) -> list[Block]:
    """Every block of a batch; a token's keys are one interval, which is all the arithmetic there is."""
    assert sight.doc is not None, "decoding has its own path"
    doc, reach = sight.doc.numpy(), sight.reach.numpy()
    blocks = []
    for row in range(len(doc)):
        cut = np.flatnonzero(np.diff(doc[row])) + 1
        starts, ends = [0, *cut.tolist()], [*cut.tolist(), doc.shape[1]]
        runs = [(a, b) for a, b in zip(starts, ends, strict=True) if doc[row, a] >= 0]
        if len({int(doc[row, a]) for a, _ in runs}) < len(runs):
            raise ValueError(f"row {row}: a document must be one unbroken run of tokens")
        for start, end in runs:
            for first in range(start, end, QUERIES):
                last = min(first + QUERIES, end)
                blocks.append(block(row, start, end, first, last, reach[row, first:last], window, dtype))
    return blocks


def block(
    row: int, start: int, end: int, first: int, last: int, reach: np.ndarray, window: int | None, dtype: torch.dtype
) -> Block:
    """The block of queries [first, last) of the document [start, end)."""
    query = np.arange(first, last)
    span = end if window is None else window - 1
    lows = np.maximum(start, query - span)
    highs = np.minimum(np.minimum(reach, query + span), end - 1)
    highs = np.maximum(highs, lows) + 1  # [low, high) of each query, never empty
    low, high = int(lows.min()), int(highs.max())
    clear = (int(lows.max()), int(highs.min()))  # the keys that all of them see
    parts = [(low, clear[0]), (clear[1], high)] if clear[0] < clear[1] else [(low, high)]
    hide = []
    for a, b in parts:
        if a < b:
            key = np.arange(a, b)
            sees = (key >= lows[:, None]) & (key < highs[:, None])
            bias = torch.zeros(sees.shape, dtype=dtype).masked_fill_(torch.from_numpy(~sees), torch.finfo(dtype).min)
            hide.append((a - low, b - low, bias))
    return Block(row, first, last, low, high, tuple(hide))


def fold(x: Tensor, part: Block, keys: int) -> Tensor:
    """The block's rows of [B, H, T, hd], heads that share a key head side by side: [K, G * rows, hd]."""
    width = x.shape[-1]
    return x[part.row, :, part.first : part.last].reshape(keys, -1, width)


def weights(q: Tensor, k: Tensor, part: Block, scale: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Attention probabilities [K, G * rows, keys], and the slope of the cap where there is one."""
    score = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    slope = None
    if softcap is not None:
        score = torch.tanh(score / softcap)
        slope = 1 - score * score
        score = score * softcap
    view = score.unflatten(1, (-1, part.last - part.first))  # [K, G, rows, keys]
    for a, b, bias in part.hide:
        view[..., a:b] += bias
    return torch.softmax(score, -1), slope


class Attention(torch.autograd.Function):
    """softmax(q k^T) v and its gradient (the equations of FlashAttention 2, arXiv:2307.08691, appendix B)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: list[Block],
        scale: float,
        softcap: float | None,
        train: bool,
    ) -> Tensor:
        """Shapes as ``attention``; keeps probabilities only when a gradient will be asked for."""
        rows, heads, tokens, _ = query.shape
        out = query.new_zeros(rows, tokens, heads, value.shape[-1]).transpose(1, 2)  # [B, H, T, hd]
        kept: list[Tensor] = []
        for part in blocks:
            k, v = key[part.row, :, part.low : part.high], value[part.row, :, part.low : part.high]  # [K, keys, hd]
            p, _ = weights(fold(query, part, len(k)), k, part, scale, softcap)
            seen = torch.bmm(p, v)  # [K, G * rows, hd]
            out[part.row, :, part.first : part.last] = seen.view(heads, part.last - part.first, -1)
            if train and keeps(part, softcap):
                kept.append(p)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.scale, ctx.softcap = blocks, scale, softcap
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value, the latter two added up over blocks in fp32."""
        (grad,) = upstream
        query, key, value, *kept = ctx.saved_tensors
        remembered = iter(kept)
        dq = torch.zeros_like(query)
        wide = torch.promote_types(key.dtype, torch.float32)
        dk, dv = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        for part in ctx.blocks:
            span = (part.row, slice(None), slice(part.low, part.high))
            k, v = key[span], value[span]
            q, g = fold(query, part, len(k)), fold(grad, part, len(k))
            if keeps(part, ctx.softcap):
                p, slope = next(remembered), None
            else:
                p, slope = weights(q, k, part, ctx.scale, ctx.softcap)
            ds = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), p, -1, p.dtype)
            if slope is not None:
                ds *= slope
            dv[span] += torch.bmm(p.transpose(1, 2), g)
            dk[span] += torch.bmm(ds.transpose(1, 2), q)
            rows = torch.bmm(ds, k)  # [K, G * rows, hd]
            dq[part.row, :, part.first : part.last] = rows.view(query.shape[1], part.last - part.first, -1)
        dq *= ctx.scale
        dk *= ctx.scale
        return dq, dk.to(key.dtype), dv.to(value.dtype), None, None, None, None


def keeps(part: Block, softcap: float | None) -> bool:
    """Whether the block's probabilities wait for the backward (a cap's slope is not in them: made again)."""
    return softcap is None and part.high - part.low <= KEEP


@torch.compiler.disable
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """query [B, H, T, hd], key and value [B, K, T, hd] -> [B, H, T, hd]; zero where there is padding."""
    blocks = sight.derive(blocks_of, window, query.dtype)
    train = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        return Attention.apply(query, key, value, blocks, scale, softcap, train)
