"""Texts to vectors: packed side by side so that no padding is computed, read, pooled and normalised."""

import torch
from torch import Tensor
from torch.nn import functional as F

from didact.batch import Batch
from didact.objective.base import LanguageModel

POOLS = ("mean", "last", "cls")


def embed(model: LanguageModel, batch: Batch, texts: int, pool: str, bidirectional: bool, unit: bool = True) -> Tensor:
    """The vectors of every row's ``texts`` texts, fp32 [B, texts, D]; zero where nothing is pooled.

    A text is a document of its row. It is read to its own end, or causally, and pooled where ``trained`` says; the
    vector has length one where ``unit``.
    """
    here = batch.doc >= 0
    row = torch.arange(batch.size, device=batch.doc.device)[:, None]
    doc = (row * texts + batch.doc)[here]  # [N]
    packed = {name: batch[name][here][None] for name in ("token", "position")}
    reach = ends(doc) if bidirectional else torch.arange(len(doc), device=doc.device)
    hidden = model.hidden(Batch({**packed, "doc": doc[None], "reach": reach[None]}))[0]  # [N, D]
    vectors = pooled(hidden, doc, batch.trained[here], batch.size * texts, pool)
    return (F.normalize(vectors, dim=-1) if unit else vectors).unflatten(0, (batch.size, texts))


def ends(doc: Tensor) -> Tensor:
    """The index of the last token of each token's document, [N]; a document is an unbroken run."""
    _, run, length = torch.unique_consecutive(doc, return_inverse=True, return_counts=True)
    return (length.cumsum(0) - 1)[run]


def pooled(hidden: Tensor, doc: Tensor, trained: Tensor, texts: int, pool: str) -> Tensor:
    """One vector a text out of hidden states [N, D], at least fp32 [texts, D].

    ``mean`` of the pooled tokens, the ``last`` of them, or the first token of the text, pooled or not (``cls``).
    """
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    count = torch.zeros(texts, dtype=wide.dtype, device=doc.device).index_add(0, doc, trained.to(wide.dtype))
    if pool == "mean":
        total = wide.new_zeros(texts, wide.shape[1]).index_add(0, doc, wide * trained[:, None])
        return total / count.clamp(min=1)[:, None]
    index = torch.arange(len(doc), device=doc.device)
    if pool == "last":
        place = index.new_zeros(texts).scatter_reduce(0, doc, torch.where(trained, index, 0), "amax")
    else:
        place = index.new_full((texts,), len(doc) - 1).scatter_reduce(0, doc, index, "amin")
    return wide[place] * (count > 0)[:, None]
