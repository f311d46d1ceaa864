"""Preferences against a reference: DPO and its kin, each a function of the margin between two answers' gains on it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.answers import by_answer, of_same, pairs
from didact.objective.base import Teacher
from didact.objective.judged import mean_by_answer, positive, spread
from didact.objective.preference import Preference


@dataclass(frozen=True)
class Dpo(Preference):
    """-log sigma(beta margin) (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    ``reference`` is a checkpoint, or ``self``, the model that the stage starts from.
    """

    beta: float = 0.1
    reference: str = "self"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)

    def taught_by(self) -> Teacher | None:
        """The reference: no other tokens than those that are there."""
        return Teacher(self.reference, 0, 1.0)

    def of(self, margin: Tensor) -> Tensor:
        """-log sigma(beta margin)."""
        return -F.logsigmoid(self.beta * margin)


@dataclass(frozen=True)
class Ipo(Dpo):
    """(margin - 1 / (2 beta))^2 (Azar et al. 2023, arXiv:2310.12036, equation 17), which does not run off to infinity.

    The margin is of whole answers, as in the paper; ``average`` takes the mean over each answer's tokens in place of
    the sum, as TRL does, so that long answers need no larger margin.
    """

    average: bool = False

    def of(self, margin: Tensor) -> Tensor:
        """(margin - 1 / (2 beta))^2."""
        return (margin - 1 / (2 * self.beta)).square()

    def worth(self, gain: Tensor, batch: Batch) -> Tensor:
        """The summed gain, or its mean."""
        return mean_by_answer(gain, batch) if self.average else by_answer(gain, batch)


@dataclass(frozen=True)
class Cdpo(Dpo):
    """DPO for judgements of which a share ``label_smoothing`` e is wrong (Mitchell 2023, "conservative DPO").

    -(1 - e) log sigma(beta margin) - e log sigma(-beta margin), least where beta margin = log((1 - e) / e).
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 0.5:
            remedy = "give the share of wrong judgements, from 0 up to, not including, 0.5"
            raise UsageProblem(f"label_smoothing is {self.label_smoothing}", remedy=remedy)

    def of(self, margin: Tensor) -> Tensor:
        """The expectation over which of the two is better."""
        right, wrong = -F.logsigmoid(self.beta * margin), -F.logsigmoid(-self.beta * margin)
        return (1 - self.label_smoothing) * right + self.label_smoothing * wrong


@dataclass(frozen=True)
class Robust(Cdpo):
    """DPO whose mean over judgements of which e are flipped is that of DPO over right ones (arXiv:2403.00409, eq. 9).

    ((1 - e) -log sigma(beta margin) - e -log sigma(-beta margin)) / (1 - 2 e); e is ``label_smoothing``.
    """

    def of(self, margin: Tensor) -> Tensor:
        """Unbiased, and so below zero at times."""
        right, wrong = -F.logsigmoid(self.beta * margin), -F.logsigmoid(-self.beta * margin)
        return ((1 - self.label_smoothing) * right - self.label_smoothing * wrong) / (1 - 2 * self.label_smoothing)


@dataclass(frozen=True)
class Hinge(Dpo):
    """max(0, 1 - beta margin) (SLiC, Zhao et al. 2023, arXiv:2305.10425, with DPO's margin)."""

    def of(self, margin: Tensor) -> Tensor:
        """Zero from a margin of 1 / beta on."""
        return (1 - self.beta * margin).clamp(min=0)


@dataclass(frozen=True)
class LdDpo(Dpo):
    """DPO in which what an answer says beyond the other's length counts ``alpha`` (Liu et al. 2024, arXiv:2409.06411).

    So a longer answer is not preferred for its length alone. ``alpha`` 1 is DPO.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise UsageProblem(f"alpha is {self.alpha}", remedy="give a number from 0 to 1")

    def margins(self, gain: Tensor, batch: Batch) -> Tensor:
        """Each answer's sum depends on the other's length."""
        length = by_answer(batch.said, batch)  # [B, A]
        before = batch.said.cumsum(1) - batch.said
        start = torch.full_like(length, torch.inf).scatter_reduce(
            1, batch.answer.clamp(min=0), torch.where(batch.said > 0, before, torch.inf), "amin"
        )  # [B, A]: predicted tokens of the row before an answer
        place = before - spread(start.nan_to_num(posinf=0), batch)  # [B, T]: number of a token in its answer
        counts = torch.where(place[:, :, None] < length[:, None, :], 1.0, self.alpha)  # [B, T, A]
        against = torch.stack([by_answer(part, batch) for part in (gain[..., None] * counts).unbind(-1)], -1)
        return against - against.transpose(1, 2)


@dataclass(frozen=True)
class PlDpo(Dpo):
    """DPO of whole rankings: sum over places of -log softmax(beta gain) among what is left (Plackett-Luce).

    Rafailov et al. 2023, appendix A.3; for two answers it is DPO. Of answers that tie, each is chosen among itself and
    what is strictly worse, so that a tie is neither rewarded nor punished. A ranking counts once, however long.
    """

    def weights(self, pair: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``ranking`` [B, A]: each answer that has worse ones, all of one prompt together 1."""
        chosen = (pair.sum(2) > 0).float()
        trust = batch.trust if "trust" in batch else 1.0
        return {"ranking": trust * chosen / of_same(chosen, batch).clamp(min=1)}

    def losses(self, gain: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``ranking`` [B, A]: minus the log-probability that an answer is chosen before all worse ones."""
        score, worse = self.beta * self.worth(gain, batch), pairs(batch)  # [B, A], [B, A, A]
        left = torch.where(worse, score[:, None, :], -torch.inf)
        chance = score - torch.logsumexp(torch.cat([score[:, :, None], left], 2), 2)
        return {"ranking": -chance * of_same(worse.any(2).float(), batch)}
