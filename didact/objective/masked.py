"""Masked tokens predicted from both sides (BERT), and from the position before them (masked next-token prediction).

With ``shift`` the masked token k + 1 is predicted from hidden state k, as in causal training; so one model and one
head learn both, as two tasks of a stage (GPT-BERT: Charpentier and Samuel 2024, arXiv:2410.24159, section 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.base import LanguageModel
from didact.objective.tokens import Tokens, next_token, whole_reach
from didact.rng import Rng


def document_starts(batch: Batch) -> Tensor:
    """Where a document (or the padding) begins, bool [B, T]."""
    starts = batch.doc != torch.roll(batch.doc, 1, dims=1)
    starts[:, 0] = True
    return starts


def stretches(begins: Tensor, starts: Tensor, draw: Tensor, shortest: int, longest: int) -> Tensor:
    """Numbers of stretches of ``shortest`` to ``longest`` units, in order along each row, int64 [B, T].

    ``begins`` [B, T] is true where a unit begins, ``starts`` where a document does, which also begins a stretch;
    ``draw`` [B, T] is uniform in [0, 1).
    """
    lengths = shortest + (draw * (longest - shortest + 1)).long()
    unit = begins.long().cumsum(1) - 1
    number = torch.searchsorted(lengths.cumsum(1), unit.contiguous(), right=True)  # stretch of each unit, in its row
    begins = (number != torch.roll(number, 1, dims=1)) | starts
    return begins.long().cumsum(1) - 1


@dataclass(frozen=True)
class Masked(Tokens):
    """-log p(x[m] | x with the tokens m corrupted), each token seeing its whole document.

    ``rate`` of the trained tokens is chosen, from the first number to the second over the stage where it is a pair; at
    least one in each document. Of the chosen ones the shares ``corrupt`` are replaced by the mask token, replaced by a
    random token, and left as they are (Devlin et al. 2019, arXiv:1810.04805, section 3.1). They are chosen by single
    tokens, by whole words (``whole_word``), or by ``span``, a pair: stretches of so many of these. Special tokens are
    never chosen and never drawn.
    """

    needs_mask: ClassVar[bool] = True
    generates: ClassVar[bool] = False

    rate: float | Sequence[float] = 0.15
    corrupt: Sequence[float] = (0.8, 0.1, 0.1)
    whole_word: bool = False
    span: Sequence[int] = (1, 1)
    shift: bool = False

    def __post_init__(self) -> None:
        """Raises UsageProblem for numbers that are no rates, shares or lengths."""
        super().__post_init__()
        if len(self.rates) != 2 or not all(0 < rate <= 1 for rate in self.rates):
            raise _wrong("rate", self.rate, "a share above 0, or two as in [0.3, 0.15]")
        if len(self.corrupt) != 3 or min(self.corrupt) < 0 or abs(sum(self.corrupt) - 1) > 1e-6:
            raise _wrong("corrupt", self.corrupt, "three shares that add up to 1, as in [0.8, 0.1, 0.1]")
        if len(self.span) != 2 or not 1 <= self.span[0] <= self.span[1]:
            raise _wrong("span", self.span, "a shortest and a longest length, as in [1, 3]")

    @property
    def rates(self) -> Sequence[float]:
        """The rate at the stage's beginning and at its end."""
        return (self.rate, self.rate) if isinstance(self.rate, int | float) else self.rate

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Corrupts ``token``; adds ``target``, ``reach`` and the weight of the one term, ``token``."""
        draw = rng.uniform(batch.row, 4 * batch.token.shape[1]).unflatten(1, (-1, 4))  # [B, T, 4]
        chosen = self.choose(batch, draw[..., 0], draw[..., 1], rng.progress)
        token = torch.where(chosen, self.replaced(batch.token, draw[..., 2], draw[..., 3]), batch.token)
        if self.shift:
            target, weight = next_token(batch.with_(trained=chosen))
        else:
            target, weight = batch.token, chosen.float()
        return batch.with_({"token": weight}, token=token, target=target, reach=whole_reach(batch))

    def choose(self, batch: Batch, draw: Tensor, lengths: Tensor, progress: float) -> Tensor:
        """The tokens to be predicted, bool [B, T]; ``draw`` and ``lengths`` [B, T] are uniform in [0, 1)."""
        starts = document_starts(batch)
        can = batch.trained & (batch.doc >= 0) & ~self.vocabulary.special.to(batch.token.device)[batch.token]
        if self.shift:
            can = can & ~starts  # nothing stands before a document's first token
        begins = torch.ones_like(can)
        if self.whole_word:
            begins = self.vocabulary.begins.to(batch.token.device)[batch.token] | starts
        lot = draw.gather(1, stretches(begins, starts, lengths, *self.span))  # one draw a stretch
        doc, never = batch.doc.long().clamp(min=0), torch.full_like(lot, 2.0)
        least = never.scatter_reduce(1, doc, torch.where(can, lot, never), "amin").gather(1, doc)
        rate = self.rates[0] + progress * (self.rates[1] - self.rates[0])
        return can & ((lot < rate) | (lot == least))

    def replaced(self, token: Tensor, way: Tensor, other: Tensor) -> Tensor:
        """What stands in the place of each token if it is chosen; all [B, T]."""
        text = (~self.vocabulary.special).nonzero()[:, 0].to(token.device)
        drawn = text[(other * len(text)).long()]
        masked = way < self.corrupt[0]
        random = ~masked & (way < self.corrupt[0] + self.corrupt[1])
        return torch.where(masked, self.vocabulary.mask, torch.where(random, drawn, token))

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{token: -log p}, [B, T]."""
        return {"token": self.nats(model, model.hidden(batch), batch.target, batch.weight["token"])}


def _wrong(name: str, value: object, wanted: str) -> UsageProblem:
    return UsageProblem(f"masked: {name} cannot be {value}", remedy=f"give {wanted}")
