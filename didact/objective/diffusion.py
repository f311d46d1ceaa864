"""Text diffusion: tokens are hidden at random, all at once or block by block, and predicted from those that are left.

A document's likelihood is bounded by what its hidden tokens cost at every share ``t`` of them that may be hidden,

    -log p(x) <= E_{t ~ U(0, 1)} [ 1/t  sum_{i: x_t[i] = mask} -log p(x[i] | x_t) ]

(MDLM, Sahoo et al. 2024, arXiv:2406.07524; LLaDA, Nie et al. 2025, arXiv:2502.09992, eq. 3). The mask itself is never
predicted and a token that is not hidden costs nothing (MDLM's SUBS).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.base import LanguageModel, Objective
from didact.objective.tokens import causal_reach, whole_reach
from didact.rng import Rng
from didact.vocabulary import NONE

EPSILON = 1e-3  # the least share of tokens hidden, in LLaDA's code as in MDLM's
GOLDEN = 0x9E3779B97F4A7C15  # the golden ratio's fraction in 64 bits
EVERY_ROW = -1  # in the place of a row's number: what all rows of a step draw together
LEVEL, TOKEN = 0, 1  # what is drawn

Weighting = Literal["llada", "mdlm"]


@dataclass(frozen=True)
class Diffusion(Objective):
    """The bound above, a mean over every token that is to be learned, hidden or not.

    ``weighting``: ``llada`` hides a token with probability t and divides by t; ``mdlm`` hides it with (1 - 1e-3) t, as
    MDLM's log-linear schedule does. ``rates``: the ends of t's interval, narrower to train single blocks with less
    variance (BD3-LM, Arriola et al. 2025, arXiv:2503.09573). ``exact`` draws the number l of hidden tokens from 1..L
    instead, and divides by l/L: the same bound with less variance, for measuring. ``block``: tokens of a block; a block
    is read in both directions, sees the blocks before it clean, and has a t of its own; without it a document is one
    block. ``fill``: documents and answers go on with their last token to a multiple of so many, so that an answer may
    end before its room does; ``block`` is a good number for models of blocks. ``shift``: position k predicts token k+1,
    as the causal model it was converted from; ``anneal``: share of the stage over which its sight opens from causal to
    the whole document (DiffuLLaMA, Gong et al. 2024, arXiv:2410.17891).

    Learned are the tokens a causal model would learn: what is trained, but for the first token of a document.
    """

    needs_mask: ClassVar[bool] = True
    generates: ClassVar[bool] = False

    weighting: Weighting = "llada"
    rates: tuple[float, float] = (EPSILON, 1.0)
    exact: bool = False
    block: int | None = None
    fill: int = 1
    shift: bool = False
    anneal: float = 0.0

    def __post_init__(self) -> None:
        """Raises UsageProblem for options that make no objective."""
        if self.weighting not in get_args(Weighting):
            raise UsageProblem(f"diffusion: no weighting {self.weighting!r}", remedy="it is llada or mdlm")
        if not (len(self.rates) == 2 and 0 < self.rates[0] < self.rates[1] <= 1):
            raise UsageProblem(f"diffusion: rates {list(self.rates)} are no interval in 0..1", remedy="as [0.3, 0.8]")
        if self.block is not None and not self.block > 0:
            raise UsageProblem(f"diffusion: a block of {self.block} tokens", remedy="give at least 1, or leave it out")
        if not self.fill > 0:
            raise UsageProblem(f"diffusion: fill to a multiple of {self.fill}", remedy="give 1 or more")
        if not 0 <= self.anneal <= 1:
            raise UsageProblem(f"diffusion: anneal is a share of the stage, got {self.anneal}", remedy="as 0.3")
        if self.block and (self.shift or self.anneal):
            what = "diffusion: a block sees its own mask, which neither shifts nor opens"
            raise UsageProblem(what, remedy="give block, or shift and anneal")

    def served(self) -> dict[str, Any]:
        """Answers are written by unmasking; ``mask`` is the id that stands for a token yet to come."""
        return {"text_diffusion": {"mask": self.vocabulary.mask, "shift": self.shift, "block": self.block}}

    def filled(self) -> int:
        """As ``fill`` says."""
        return self.fill

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Hides tokens. Adds ``target``, ``factor`` (1/t at a hidden token, else 0), ``reach`` and the weight."""
        learned = batch.trained & (batch.position > 0) & (batch.token != self.vocabulary.mask)
        stretch, start = self._stretches(batch)
        level = levels(rng, batch.row, stretch)
        draw = rng.uniform(batch.row, batch.token.shape[1], TOKEN)
        hide = exactly if self.exact else self._at_rate
        factor = hide(learned, level, draw, stretch, start)  # [B, T]
        token = batch.token.masked_fill(factor > 0, self.vocabulary.mask)
        target, weight = batch.token, learned.float()
        if self.shift:  # what is said of token k+1 stands at position k
            target, factor, weight = (column.roll(-1, 1) for column in (target, factor, weight))
        reach = self._reach(batch, rng.progress)
        return batch.with_({"token": weight}, token=token, target=target, factor=factor, reach=reach)

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{token: -1/t log p}, [B, T]."""
        hidden = model.hidden(doubled(batch, self.block) if self.block else batch)[:, : batch.token.shape[1]]
        logprob = model.logprob(hidden, batch.target, batch.factor, never=self.vocabulary.mask)
        return {"token": -batch.factor * logprob}

    def _stretches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which stretch of its row a token shares t with, by number, and the index where that begins, both [B, T]."""
        index = torch.arange(batch.token.shape[1], device=batch.doc.device).expand_as(batch.doc)
        block = batch.position // self.block if self.block else torch.zeros_like(index)
        fresh = (batch.doc != batch.doc.roll(1, 1)) | (block != block.roll(1, 1))
        fresh[:, 0] = True
        return fresh.cumsum(1) - 1, torch.where(fresh, index, 0).cummax(1).values

    def _at_rate(self, learned: Tensor, level: Tensor, draw: Tensor, *_: Tensor) -> Tensor:
        """1/t where a token is hidden by its own draw, else 0; all [B, T]."""
        low, high = self.rates
        t = low + (high - low) * level
        chance = (1 - EPSILON) * t if self.weighting == "mdlm" else t
        return torch.where(learned & (draw < chance), 1 / t, 0)

    def _reach(self, batch: Batch, progress: float) -> Tensor:
        """Every token sees its document, or so much of what follows as is open by now, [B, T]."""
        last, here = whole_reach(batch), causal_reach(batch)
        return here + ((last - here) * min(1.0, progress / self.anneal)).long() if self.anneal else last


def levels(rng: Rng, row: Tensor, stretch: Tensor) -> Tensor:
    """Each stretch's level in [0, 1), [B, T]: uniform by itself, and evenly spread over the rows of a step.

    MDLM spreads n levels as (u + i/n) mod 1. A row does not know n, nor where in the step it stands; multiples of the
    golden ratio are spread evenly for any run of rows (Weyl's sequence).
    """
    common = rng.uniform(torch.full_like(row[:1], EVERY_ROW), int(stretch.max()) + 1, LEVEL)[0]  # [stretches]
    place = torch.tensor([(number * GOLDEN & (1 << 64) - 1) / (1 << 64) for number in row.tolist()])
    return (common[stretch] + place.to(common)[:, None]) % 1


def exactly(learned: Tensor, level: Tensor, draw: Tensor, stretch: Tensor, start: Tensor) -> Tensor:
    """L/l where one of exactly l tokens of a stretch is hidden, else 0, [B, T]; l is uniform on 1..L."""
    count = torch.zeros_like(level).scatter_add(1, stretch, learned.to(level)).gather(1, stretch)  # L, [B, T]
    hidden = ((level * count).floor() + 1).minimum(count)  # l
    drawn = draw.masked_fill(~learned, 2.0).argsort(1)
    order = drawn.gather(
        1, stretch.gather(1, drawn).argsort(dim=1, stable=True)
    )  # by stretch, the learned first, as drawn
    rank = order.argsort(1) - start
    return torch.where(learned & (rank < hidden), count / hidden, 0)


def doubled(batch: Batch, block: int) -> Batch:
    """The noised row and behind it the clean one, [B, 2T], in the order of blocks; see ``Sight``."""
    clean = torch.where(batch.factor > 0, batch.target, batch.token)
    number = 2 * (batch.position // block)
    both = {name: torch.cat([batch[name], batch[name]], 1) for name in ("doc", "position")}
    order = torch.cat([number + 1, number + 2], 1)
    whole = torch.full_like(order, order.shape[1] - 1)
    return Batch({**both, "token": torch.cat([batch.token, clean], 1), "order": order, "reach": whole})


def bound(served: Mapping[str, Any]) -> Diffusion:
    """The objective that scores text with a model ``served`` says is read so: an upper bound, one draw a document."""
    way = served["text_diffusion"]
    known = replace(NONE, mask=way["mask"])
    return Diffusion(exact=True, shift=way["shift"], block=way["block"], vocabulary=known)
