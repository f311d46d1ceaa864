"""Tensors in a dict, rows first: the one shape everything in Didact passes around.

Axis legend for the whole codebase:
    B rows of a batch        T tokens of a row         D hidden width      V vocabulary
    H query heads            K key/value heads         N items picked out of [B, T]      A answers of a row

Columns of a token batch, all [B, T] unless said:
    token     int64, the input ids
    doc       int32, which document of the row a token belongs to; -1 is padding
    position  int64, position inside the document, what the model's position embedding sees
    reach     int64, index in the row of the last token this one may see (q sees k iff
              doc[q] == doc[k] and k <= reach[q])
    order     int64, where documents branch, or stand in a row noised and clean: which part sees which (see Sight)
    trained   bool, true where a token is to be predicted (or, in a text to be embedded, pooled)
    value     float32 [B], the number an example of several texts carries; its texts are the row's documents
    teacher_token, teacher_logprob
              int64 and float32 [B, T, k], the k tokens likeliest in this one's place, to a teacher
    reference float32, the log-probability of this token in its place, to a reference; 0 where it is not trained
    answer    int64, where examples are prompts with answers: the number in its row of the answer a token belongs to; -1
              in a prompt and in padding. A document is a prompt but for its last token, then its answers, each of which
              begins with that token.
    of, score, who
              int64, float32 and int64 [B, A], of each answer of a row: which example it answers (-1: no answer), what
              it was found worth (NaN: nobody said), and who found that (0: not known)
    trust     float32 [B, A], how much a judgement counts, where people are not all alike
    row       int64 [B], the row's number in the stream: the key of all its randomness
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Batch(dict[str, Tensor]):
    """Columns by name, and ``weight``: how much each item counts in each term's mean."""

    def __init__(self, columns: Mapping[str, Tensor], weight: Mapping[str, Tensor] | None = None):
        super().__init__(columns)
        self.weight: dict[str, Tensor] = dict(weight or {})

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch has no column {name!r}; it has {', '.join(self)}") from None

    @property
    def size(self) -> int:
        """Number of rows, B."""
        return len(next(iter(self.values())))

    def rows(self, index: slice | Tensor) -> Batch:
        """The given rows of every column and weight."""
        return Batch({k: v[index] for k, v in self.items()}, {k: v[index] for k, v in self.weight.items()})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            {k: v.to(device, non_blocking=True) for k, v in self.items()},
            {k: v.to(device, non_blocking=True) for k, v in self.weight.items()},
        )

    def with_(self, weight: Mapping[str, Tensor] | None = None, **columns: Tensor) -> Batch:
        """A copy with columns (and weights) added or replaced."""
        return Batch({**self, **columns}, {**self.weight, **(weight or {})})
