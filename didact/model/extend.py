"""New rows for new tokens: their own parameter beside a frozen embedding table, and beside a frozen head.

A gradient on a whole table would let the optimizer's weight decay and momentum move the old rows; here the old
rows are no parameter of training at all. Textual inversion (Gal et al. 2022, arXiv:2208.01618) for language models.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class ExtendedEmbedding(nn.Module):
    """Embeds token ids: ``table`` [V, D] is frozen, ``rows`` [N, D] are the ids from ``start`` on.

    ``rows`` may lie over the table's spare rows, at its end, or both; the whole is max(V, start + N) long.
    """

    def __init__(self, table: nn.Module, rows: nn.Module, start: int):
        super().__init__()
        self.table, self.rows, self.start = table.requires_grad_(False), rows, start

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to embeddings [..., D], with whatever the table's own class does besides (Gemma scales)."""
        new = (ids >= self.start) & (ids < self.start + _weight(self.rows).shape[0])
        old = self.table(ids.masked_fill(new, 0))
        return torch.where(new[..., None], self.rows((ids - self.start) * new), old)

    @property
    def weight(self) -> Tensor:
        """The standard table, [max(V, start + N), D]."""
        return _joined(_weight(self.table), _weight(self.rows), self.start)


class ExtendedHead(nn.Module):
    """Logits of old and new tokens: the counterpart of ``ExtendedEmbedding`` at the other end of the model."""

    def __init__(self, table: nn.Linear, rows: nn.Module, start: int):
        super().__init__()
        self.table, self.rows, self.start = table.requires_grad_(False), rows, start

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., max(V, start + N)]."""
        return nn.functional.linear(hidden, self.weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The standard head, [max(V, start + N), D]."""
        return _joined(self.table.weight, _weight(self.rows), self.start)

    @property
    def bias(self) -> Tensor | None:
        """The head's bias, zero for new tokens."""
        bias: Tensor | None = self.table.bias
        if bias is None:
            return None
        count = _weight(self.rows).shape[0]
        return _joined(bias, bias.new_zeros(count), self.start)


def _weight(module: nn.Module) -> Tensor:
    return module.get_parameter("weight")


def _joined(table: Tensor, rows: Tensor, start: int) -> Tensor:
    return torch.cat([table[:start], rows, table[start + rows.shape[0] :]])


def extend(model: PreTrainedModel, start: int, rows: Tensor, head_rows: Tensor) -> None:
    """Gives the model trainable ``rows`` [N, D] for the ids from ``start`` on, in place, and freezes its tables.

    ``head_rows`` [N, D] are those of the head; a head tied to the table shares the embedding's.
    """
    table: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    new = _like(table, rows)
    extended = ExtendedEmbedding(table, new, start)
    model.set_input_embeddings(extended)
    tied = head.weight is table.weight
    model.set_output_embeddings(
        ExtendedHead(head, new if tied else nn.Embedding.from_pretrained(head_rows, freeze=False), start)
    )
    size = max(table.weight.shape[0], start + rows.shape[0])
    model.config.get_text_config().vocab_size = size


def fit(model: PreTrainedModel, size: int) -> None:
    """Lengthens the embedding table and the head to ``size`` rows, in place; new rows are the mean of the old ones."""
    table: Any = model.get_input_embeddings()
    count = table.weight.shape[0]
    if size <= count:
        return
    with torch.no_grad():
        means = [weight.float().mean(0) for weight in _tables(model)]
        model.resize_token_embeddings(size, mean_resizing=False)
        for weight, mean in zip(_tables(model), means, strict=True):
            weight[count:] = mean.to(weight.dtype)


def lengthen(model: PreTrainedModel, start: int, rows: Tensor, head_rows: Tensor) -> None:
    """Writes ``rows`` [N, D], and ``head_rows`` into a head with a table of its own, for the ids from ``start`` on."""
    fit(model, start + len(rows))
    with torch.no_grad():
        for weight, new in zip(_tables(model), (rows, head_rows), strict=False):
            weight[start : start + len(rows)] = new


def _tables(model: PreTrainedModel) -> list[Tensor]:
    """The embedding table and, where it is another one, the head."""
    table: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    return [table.weight] if head is None or head.weight is table.weight else [table.weight, head.weight]


def _like(table: nn.Embedding, rows: Tensor) -> nn.Embedding:
    """A table of the same class with other rows: subclasses that scale keep their scale."""
    new = copy.copy(table)
    new._parameters = {"weight": nn.Parameter(rows)}
    new.num_embeddings, new.padding_idx = rows.shape[0], None
    return new
