"""Attention on CPU in blocks of queries, as plain products with a backward of their own.

torch's CPU kernel for bf16 spends a third of a training step, mostly in its backward; batched products run near the
processor's peak. The query heads that share a key head are folded into the rows of a product, so keys and values are
never repeated, and a block of queries multiplies only the keys somebody in it can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from didact.model.sight import Sight, check_window

# Queries of a block. More would multiply keys that most of them cannot see, fewer make thin products; short documents
# that stand side by side share a block, for a call of a product costs more than the numbers it hides.
QUERIES = 96
# Keys up to which a block's probabilities wait for the backward. Making them again costs a quarter of the time;
# keeping them costs memory that grows with the square of the document: for 180 tokens little, for 1,024 a third of
# what the rest of a layer keeps, for 4,096 more than all of it.
KEEP = 1024
# Keys come in multiples of this where the row has them: a softmax over 180 columns takes as long as one over 300,
# because the columns left over by the vector width are computed one by one.
LANES = 32


@dataclass(frozen=True)
class Block:
    """Queries [first, last) of row ``row`` and the keys [low, high) that one of them sees.

    In front of these all of them see the keys ``shared``, where they answer a prompt that is not beside them.
    """

    row: int
    first: int
    last: int
    low: int
    high: int
    hide: tuple[tuple[int, int, Tensor], ...]  # columns [a, b) of the scores, their bias [queries * G, b - a]
    shared: tuple[int, int] = (0, 0)

    @property
    def keys(self) -> int:
        """How many keys, the columns of the scores."""
        return self.high - self.low + self.shared[1] - self.shared[0]

    def of(self, x: Tensor) -> Tensor:
        """The block's keys (or values), [K, keys, hd]; x [B, K, T, hd]."""
        own = x[self.row, :, self.low : self.high]
        a, b = self.shared
        return torch.cat([x[self.row, :, a:b], own], 1) if a < b else own

    def add(self, into: Tensor, grad: Tensor) -> None:
        """Adds the gradient of the block's keys (or values) [K, hd, keys] to that of all, [B, K, hd, T]."""
        a, b = self.shared
        into[self.row, :, :, self.low : self.high] += grad[..., b - a :]
        if a < b:
            into[self.row, :, :, a:b] += grad[..., : b - a]


def blocks_of(sight: Sight, window: int | None, group: int, dtype: torch.dtype) -> list[Block]:
    """The blocks of a batch. What a token sees is one interval of keys, and that is all the arithmetic there is.

    An answer to a prompt sees a second one, the prompt. ``group`` is G, the query heads of a key head; ``dtype`` that
    of the scores.
    """
    assert sight.doc is not None, "decoding has its own path"
    doc, reach = sight.doc.numpy(), sight.reach.numpy()
    order = None if sight.order is None else sight.order.numpy()
    if order is not None:
        check_window(window, doc.shape[1])
        window = None
    token = np.arange(doc.shape[1])
    span = doc.shape[1] if window is None else window - 1
    blocks = []
    for row in range(len(doc)):
        runs = runs_of(doc[row], row)
        start, end, prompt = np.zeros_like(token), np.ones_like(token), np.zeros((2, len(token)), np.int64)
        for a, b in runs:
            start[a:b], end[a:b] = a, b
            if order is not None:
                shared = a + int((order[row, a:b] == 0).sum())
                for c, d in answers_of(order[row, a:b], a):
                    start[c:d], end[c:d], prompt[0, c:d], prompt[1, c:d] = c, d, a, shared
        low = np.maximum(start, token - span)
        high = np.maximum(np.minimum(np.minimum(reach[row], token + span), end - 1), low) + 1  # never empty
        for a, b in cuts(runs):
            block = slice(a, b)
            shared = (int(prompt[0, a]), int(prompt[1, a]))
            before = shared[1] - shared[0]
            first, last = widened(int(low[block].min()), int(high[block].max()), len(token), before)
            apart = shared[1] <= first and (prompt[:, block] == prompt[:, a : a + 1]).all()
            if not apart:  # the prompt is among the keys, or there are several
                there = prompt[1, block] > prompt[0, block]
                first = int(np.where(there, prompt[0, block], low[block]).min())
                first, last = widened(first, last, len(token))
                shared, before = (0, 0), 0
            also = None if apart else prompt[:, block]
            hide = hidden(low[block], high[block], first, last, group, dtype, before, also)
            blocks.append(Block(row, a, b, first, last, hide, shared))
    return blocks


def answers_of(order: np.ndarray, start: int) -> list[tuple[int, int]]:
    """The answers [first, last) of a document that begins at ``start`` in its row; order [tokens] of it."""
    edges = [0, *(np.flatnonzero(np.diff(order)) + 1).tolist(), len(order)]
    return [(start + a, start + b) for a, b in pairwise(edges) if order[a] > 0]


def runs_of(doc: np.ndarray, row: int) -> list[tuple[int, int]]:
    """The documents [start, end) of a row, padding left out."""
    edges = [0, *(np.flatnonzero(np.diff(doc)) + 1).tolist(), len(doc)]
    runs = [(a, b) for a, b in pairwise(edges) if a < b and doc[a] >= 0]
    if len({int(doc[a]) for a, _ in runs}) < len(runs):
        raise ValueError(f"row {row}: a document must be one unbroken run of tokens")
    return runs


def cuts(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Query ranges of at most QUERIES: long documents are cut, short neighbours share."""
    ranges: list[tuple[int, int]] = []
    for a, b in runs:
        if ranges and ranges[-1][1] == a and b - ranges[-1][0] <= QUERIES:
            ranges[-1] = (ranges[-1][0], b)
        else:
            ranges += [(q, min(q + QUERIES, b)) for q in range(a, b, QUERIES)]
    return ranges


def widened(low: int, high: int, tokens: int, before: int = 0) -> tuple[int, int]:
    """Keys [low, high) and enough neighbours, which are hidden, to make with those ``before`` a multiple of LANES."""
    width = min(-(-(before + high - low) // LANES) * LANES - before, tokens)
    high = min(low + width, tokens)
    return high - width, high


def hidden(
    lows: np.ndarray,
    highs: np.ndarray,
    low: int,
    high: int,
    group: int,
    dtype: torch.dtype,
    before: int = 0,
    also: np.ndarray | None = None,
) -> tuple[tuple[int, int, Tensor], ...]:
    """What hides keys [low, high) from queries that see [lows, highs), where not all of them see a key.

    ``before`` columns that all see stand in front; a query sees ``also`` [2, queries], from the one to the other.
    """
    clear = (int(lows.max()), int(highs.min()))
    parts = [(low, clear[0]), (clear[1], high)] if clear[0] < clear[1] and also is None else [(low, high)]
    hide = []
    for a, b in parts:
        if a < b:
            key = np.arange(a, b)
            unseen = (key < lows[:, None]) | (key >= highs[:, None])
            if also is not None:
                unseen &= (key < also[0][:, None]) | (key >= also[1][:, None])
            bias = torch.zeros(unseen.shape, dtype=dtype)
            bias.masked_fill_(torch.from_numpy(unseen), torch.finfo(dtype).min)
            hide.append((a - low + before, b - low + before, bias.repeat_interleave(group, 0)))
    return tuple(hide)


def fold(x: Tensor, keys: int) -> Tensor:
    """[B, H, T, hd] -> [B, K, T * G, hd]: the heads that share a key head become rows, a token's side by side."""
    return x.unflatten(1, (keys, -1)).transpose(2, 3).flatten(2, 3).contiguous()


def unfold(x: Tensor, part: Block, into: Tensor) -> None:
    """Write the block's [K, queries * G, hd] to its place in [B, T, H, hd]."""
    place = into[part.row, part.first : part.last].unflatten(1, (len(x), -1))  # [queries, K, G, hd]
    place.copy_(x.view(len(x), len(place), -1, x.shape[-1]).transpose(0, 1))


def weights(q: Tensor, k: Tensor, part: Block, scale: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Attention probabilities [K, queries * G, keys], and the slope of the cap where there is one."""
    score = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    slope = None
    if softcap is not None:
        score.div_(softcap).tanh_()
        slope = 1 - score * score
        score *= softcap
    for a, b, bias in part.hide:
        score[..., a:b] += bias
    return torch.softmax(score, -1, out=score), slope  # in fp32 inside


class Attention(torch.autograd.Function):
    """softmax(q k^T) v and its gradient (the equations of FlashAttention 2, arXiv:2307.08691, section 2.2)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: list[Block],
        scale: float,
        softcap: float | None,
        dropout: float,
        train: bool,
    ) -> Tensor:
        """Shapes as ``attention``; keeps probabilities only when a gradient will be asked for."""
        rows, heads, tokens, _ = query.shape
        group = heads // key.shape[1]
        out = query.new_zeros(rows, tokens, heads, value.shape[-1])
        queries, keys, values = fold(query, key.shape[1]), key.contiguous(), value.contiguous()
        kept: list[Tensor] = []
        masks: list[Tensor] = []
        for part in blocks:
            q = queries[part.row, :, part.first * group : part.last * group]  # [K, queries * G, hd]
            k, v = part.of(keys), part.of(values)
            p, _ = weights(q, k, part, scale, softcap)
            if dropout:
                masks.append(torch.rand_like(p, dtype=torch.float32) >= dropout)
            unfold(torch.bmm(dropped(p, masks[-1], dropout) if dropout else p, v), part, out)
            if train and keeps(part, softcap):
                kept.append(p)
        ctx.save_for_backward(queries, keys, values, *(masks if train else ()), *kept)
        ctx.blocks, ctx.scale, ctx.softcap, ctx.dropout = blocks, scale, softcap, dropout
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        """Gradients of query, key and value, the latter two added up over blocks in fp32."""
        (grad,) = grad_outputs
        queries, keys, values, *saved = ctx.saved_tensors
        masks = iter(saved[: len(ctx.blocks)] if ctx.dropout else ())
        remembered = iter(saved[len(ctx.blocks) :] if ctx.dropout else saved)
        (rows, heads, tokens, _), width, dtype = grad.shape, keys.shape[-1], keys.dtype
        group = heads // keys.shape[1]
        grads = fold(grad, keys.shape[1])
        dq = queries.new_zeros(rows, tokens, heads, width)
        wide = torch.promote_types(dtype, torch.float32)
        dk = torch.zeros_like(keys.transpose(2, 3), dtype=wide, memory_format=torch.contiguous_format)  # [B, K, hd, T]
        dv = torch.zeros_like(values.transpose(2, 3), dtype=wide, memory_format=torch.contiguous_format)
        for part in ctx.blocks:
            asked = slice(part.first * group, part.last * group)
            q, g = queries[part.row, :, asked], grads[part.row, :, asked]  # [K, queries * G, hd]
            k, v = part.of(keys), part.of(values)  # [K, keys, hd]
            if keeps(part, ctx.softcap):
                p, slope = next(remembered), None
            else:
                p, slope = weights(q, k, part, ctx.scale, ctx.softcap)
            dp, used = torch.bmm(g, v.transpose(1, 2)), p
            if ctx.dropout:
                mask = next(masks)
                dp, used = dropped(dp, mask, ctx.dropout), dropped(p, mask, ctx.dropout)
            ds = torch._softmax_backward_data(dp, p, -1, dtype, grad_input=dp)  # p * (dp - sum(p * dp))
            if slope is not None:
                ds *= slope
            # the products that lead to [hd, keys] read p and ds along their rows
            part.add(dv, torch.bmm(g.transpose(1, 2), used))
            part.add(dk, torch.bmm(q.transpose(1, 2), ds))
            unfold(torch.bmm(ds, k), part, dq)
        back = [scaled(x, factor, dtype) for x, factor in ((dk, ctx.scale), (dv, 1.0))]
        return dq.mul_(ctx.scale).transpose(1, 2), *back, None, None, None, None, None


def scaled(x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """[B, K, hd, T] in fp32 -> [B, K, T, hd], laid out as models lay out keys: [B, T, K, hd]."""
    laid = x.permute(0, 3, 1, 2)
    return torch.mul(laid, factor, out=torch.empty(laid.shape, dtype=dtype)).transpose(1, 2)


def dropped(p: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """What is left of probabilities, or of their gradient, grown so that the mean stays."""
    return p * mask * (1 / (1 - dropout))


def keeps(part: Block, softcap: float | None) -> bool:
    """Whether the block's probabilities wait for the backward (a cap's slope is not in them: made again)."""
    return softcap is None and part.keys <= KEEP


@torch.compiler.disable
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """query [B, H, T, hd], key and value [B, K, T, hd] -> [B, H, T, hd]; zero where there is padding."""
    blocks = sight.derive(blocks_of, window, query.shape[1] // key.shape[1], query.dtype)
    train = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        return Attention.apply(query, key, value, blocks, scale, softcap, dropout, train)
