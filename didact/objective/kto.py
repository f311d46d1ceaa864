"""Thumbs: an answer that was liked is to gain on the reference, one that was not to lose, both against a drift."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import DataProblem
from didact.objective.answers import by_answer, judged
from didact.objective.base import LanguageModel, Teacher
from didact.objective.judged import Judged, mean_by_answer, positive, spread
from didact.objective.tokens import causal_reach
from didact.rng import Rng

FAIR = (1.0, 4 / 3)  # what the liked may count over what the others do, all together
TOKENS = ("token", "doc", "position", "order", "answer", "trained", "target", "said", "reference")


@dataclass(frozen=True)
class Kto(Judged):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8).

    ``lambda_D (1 - sigma(beta (gain - z0)))`` of an answer that was liked, ``lambda_U (1 - sigma(beta (z0 - gain)))``
    of one that was not. The gain is ``log p(answer | prompt)`` less the reference's; z0 is the mean gain, at least 0,
    of the step's prompts each with an answer to another prompt, over all processes and without gradient. The data
    brings these answers, unjudged, and they are read for z0 alone.

    Where one kind is rare, ``desirable`` (lambda_D) or ``undesirable`` (lambda_U) makes up for it: unless given, both
    are 1 where the liked count 1 to 4/3 times what the others do, and else one is so much larger that they do.
    ``reference`` is as for ``Dpo``. Gauges: ``z0``; ``chosen_logprob`` and ``rejected_logprob``, the gains of answers
    that were liked and were not, in nats, and ``chosen_token``, the former a token.
    """

    mismatched: ClassVar[bool] = True
    gauges: ClassVar[frozenset[str]] = frozenset({"z0", "chosen_logprob", "chosen_token", "rejected_logprob"})

    beta: float = 0.1
    desirable: float | None = None
    undesirable: float | None = None
    reference: str = "self"
    balance: tuple[float, float] = field(
        default=(1.0, 1.0), kw_only=True, metadata={"bound": "by the stage, which counts the thumbs"}
    )

    def __post_init__(self) -> None:
        positive("beta", self.beta)
        for name in ("desirable", "undesirable"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))

    def taught_by(self) -> Teacher | None:
        """The reference."""
        return Teacher(self.reference, 0, 1.0)

    def counted(self, liked: int, others: int) -> tuple[Self, str]:
        """The same objective, balanced for data of so many thumbs of each kind, and what is to be said of it."""
        ours, theirs = balanced(liked, others, self.desirable, self.undesirable)
        share = ours * liked / (theirs * max(others, 1))
        said = f"{liked:,} answers were liked and {others:,} were not; they count {ours:.3g} and {theirs:.3g}"
        if others and not FAIR[0] - 1e-9 <= share <= FAIR[1] + 1e-9:
            said += f", so the liked together {share:.2f} times the others, where 1 to 1.33 is advised"
        return replace(self, balance=(ours, theirs)), said

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds what ``read`` adds, ``z0`` [B] and the weights [B, A], and leaves the mismatched answers out."""
        ready = self.read(batch)
        said = ~ready.score.isnan()
        if bool((said & (ready.score != 0) & (ready.score != 1)).any()):
            what = "kto learns from thumbs, and these are ratings or rankings"
            raise DataProblem(
                what, remedy="give prompt, completion and a label of true or false; or take dpo or pl_dpo"
            )
        z0 = self.drift(model, only(ready, ~said)).expand(batch.size)
        rest = only(ready, said).with_(z0=z0)
        there = judged(rest).float() * (rest.trust if "trust" in rest else 1.0)
        good, bad = there * liked(rest), there * (1 - liked(rest))
        weight = {"answer": there, "chosen_logprob": good, "chosen_token": good, "rejected_logprob": bad}
        return rest.with_(weight | {"z0": torch.ones_like(z0)})

    @torch.no_grad()
    def drift(self, model: LanguageModel, stray: Batch) -> Tensor:
        """z0, of no dimension: read row by row, as a step may be more than fits at once."""
        rows = [stray.rows(slice(i, i + 1)) for i in range(stray.size)]
        gain = torch.stack([self.gains(model, row)[1].sum() for row in rows])
        count = ((stray.of >= 0) & (by_answer(stray.said, stray) > 0)).sum().to(gain)
        total, of = model.gather(torch.stack([gain.sum(), count])[None]).sum(0)
        return (total / of.clamp(min=1)).clamp(min=0)

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{answer: loss} [B, A], and the gauges."""
        gains = self.gains(model, batch)[1]
        gain = by_answer(gains, batch)
        good, z0 = liked(batch), batch.z0[:, None]
        away = torch.where(good > 0, gain - z0, z0 - gain)
        factor = torch.where(good > 0, *self.balance)
        measured = {"z0": batch.z0, "chosen_logprob": gain.detach(), "rejected_logprob": gain.detach()}
        measured["chosen_token"] = mean_by_answer(gains.detach(), batch)
        return {"answer": factor * (1 - torch.sigmoid(self.beta * away))} | measured


def liked(batch: Batch) -> Tensor:
    """1 for an answer that was liked, else 0; [B, A]."""
    return (batch.score > 0).float()


def balanced(liked: int, others: int, desirable: float | None, undesirable: float | None) -> tuple[float, float]:
    """lambda_D and lambda_U; what is not given is 1 unless that is unfair to the rarer kind (equation 8)."""
    if not liked or not others or (desirable is not None and undesirable is not None):
        return desirable or 1.0, undesirable or 1.0
    share = (desirable or 1.0) * liked / ((undesirable or 1.0) * others)
    if FAIR[0] <= share <= FAIR[1]:
        return desirable or 1.0, undesirable or 1.0
    bound = FAIR[0] if share < FAIR[0] else FAIR[1]
    raises_liked = undesirable is not None or (desirable is None and share < FAIR[0])
    if raises_liked:
        return bound * (undesirable or 1.0) * others / liked, undesirable or 1.0
    return desirable or 1.0, (desirable or 1.0) * liked / (bound * others)


def only(batch: Batch, answers: Tensor) -> Batch:
    """The batch with the tokens of these ``answers`` [B, A] and of what they share alone, moved together."""
    keep = (batch.doc >= 0) & ((batch.answer < 0) | (spread(answers.float(), batch) > 0))
    order = torch.argsort((~keep).long(), dim=1, stable=True)[:, : max(int(keep.sum(1).max()), 1)]
    columns = {name: batch[name].gather(1, order) for name in TOKENS if name in batch}
    gone = ~keep.gather(1, order)
    empty = {"doc": -1, "answer": -1, "said": 0, "reference": 0}
    columns |= {name: columns[name].masked_fill(gone, value) for name, value in empty.items()}
    found = Batch({**batch, **columns, "of": batch.of.masked_fill(~answers, -1)})
    return found.with_(reach=causal_reach(found))
