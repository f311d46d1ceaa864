"""What people prefer: of two answers to one prompt the better is to gain on the worse, by a margin.

An answer's gain is ``log p(answer | prompt)``, less the same under a reference where the method has one (``dpo``). All
strictly ordered pairs of one prompt's answers count alike, and ties teach nothing. What a variant adds is one function:
the loss ``of`` a margin, or what an answer is ``worth``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.answers import by_answer, pairs
from didact.objective.base import LanguageModel
from didact.objective.judged import Judged, mean_by_answer, positive, spread
from didact.rng import Rng


@dataclass(frozen=True)
class Preference(Judged):
    """The base of all that compares answers with each other.

    ``sft`` times the mean -log p of the tokens of each prompt's best answers is added, which keeps them from losing
    probability together with the worse. Gauges: what ``chosen_logprob`` and ``rejected_logprob`` gained on the
    reference (without one, what they are) and their ``margin``, in nats and means over pairs; ``chosen_token``, the
    same of the chosen a token; ``accuracy``, the share of pairs in the right order; ``log_ratio``, the gain of a token
    of any answer.
    """

    compares: ClassVar[bool] = True
    gauges: ClassVar[frozenset[str]] = frozenset(
        {"chosen_logprob", "chosen_token", "rejected_logprob", "margin", "accuracy", "log_ratio"}
    )

    sft: float = 0.0

    def __post_init__(self) -> None:
        if self.sft < 0:
            raise UsageProblem(f"sft is {self.sft}", remedy="give 0 or more, usually 0.1 to 1")

    def of(self, margin: Tensor) -> Tensor:
        """The loss of each margin, of the same shape."""
        raise TypeError(f"{type(self).__name__} does not say what its loss is")

    def worth(self, gain: Tensor, batch: Batch) -> Tensor:
        """What each answer is worth, [B, A]: the sum of its tokens' gains, unless a method says otherwise."""
        return by_answer(gain, batch)

    def margins(self, gain: Tensor, batch: Batch) -> Tensor:
        """By how much the first of each two answers is worth more than the second, [B, A, A]."""
        worth = self.worth(gain, batch)
        return worth[:, :, None] - worth[:, None, :]

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds what ``read`` adds and the weights: ``pair`` [B, A, A], ``sft`` [B, T], those of the gauges."""
        ready = self.read(batch)
        pair = pairs(ready).float()
        if "trust" in ready:
            pair = pair * ready.trust[:, :, None]
        measured = dict.fromkeys(sorted(self.gauges - {"log_ratio"}), pair)
        weight = self.weights(pair, ready) | measured | {"log_ratio": ready.said}
        if self.sft:
            best = ((pair.sum(1) == 0) & (pair.sum(2) > 0)).float()  # [B, A]: none is better, and some are worse
            weight["sft"] = ready.said * spread(best * ready.trust if "trust" in ready else best, ready)
        return ready.with_(weight)

    def weights(self, pair: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The weights of what is minimised besides ``sft``."""
        return {"pair": pair}

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{pair: loss} [B, A, A], {sft: sft * -log p} [B, T], and the gauges."""
        logprob, gain = self.gains(model, batch)
        losses = self.losses(gain, batch)
        if self.sft:
            losses["sft"] = -self.sft * logprob
        with torch.no_grad():
            margin, total = self.margins(gain, batch), by_answer(gain, batch)  # [B, A, A], [B, A]
            each = mean_by_answer(gain, batch)
            losses |= {"chosen_logprob": total[:, :, None].expand_as(margin), "log_ratio": gain.detach()}
            losses |= {"chosen_token": each[:, :, None].expand_as(margin), "margin": margin}
            losses |= {"rejected_logprob": total[:, None, :].expand_as(margin)}
            losses["accuracy"] = (margin.sign() + 1) / 2
        return losses

    def losses(self, gain: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What is minimised besides ``sft``."""
        return {"pair": self.of(self.margins(gain, batch))}


# --- without a reference -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simpo(Preference):
    """-log sigma(beta margin - gamma) of mean log-probabilities a token (Meng et al. 2024, arXiv:2405.14734, eq. 6)."""

    beta: float = 2.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)

    def worth(self, gain: Tensor, batch: Batch) -> Tensor:
        """Mean log p a token."""
        return mean_by_answer(gain, batch)

    def of(self, margin: Tensor) -> Tensor:
        """The margin is to exceed gamma / beta."""
        return -F.logsigmoid(self.beta * margin - self.gamma)


@dataclass(frozen=True)
class Cpo(Preference):
    """-log sigma(beta margin) of log-probabilities, and ``sft`` (Xu et al. 2024, arXiv:2401.08417, equation 3)."""

    sft: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)

    def of(self, margin: Tensor) -> Tensor:
        """-log sigma(beta margin)."""
        return -F.logsigmoid(self.beta * margin)


@dataclass(frozen=True)
class Orpo(Preference):
    """``sft``, and beta times -log sigma of the difference in log-odds (Hong et al. 2024, arXiv:2403.07691, eq. 6).

    odds = p / (1 - p), where log p is the mean over the answer's tokens; beta is the paper's lambda. -log p is of the
    best answer's tokens, where TRL takes the prompt's too.
    """

    sft: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)

    def worth(self, gain: Tensor, batch: Batch) -> Tensor:
        """log odds."""
        there = by_answer(batch.said, batch) > 0
        mean = torch.where(there, mean_by_answer(gain, batch), -1.0).clamp(max=-1e-6)  # of p = 1 the odds are infinite
        return mean - torch.log(-torch.expm1(mean))

    def of(self, margin: Tensor) -> Tensor:
        """-beta log sigma(margin)."""
        return -self.beta * F.logsigmoid(margin)
