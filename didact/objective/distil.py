"""Knowledge distillation: beside the text's own tokens, what a teacher would have written in their place."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.base import LanguageModel, Teacher
from didact.objective.tokens import Causal
from didact.rng import Rng


@dataclass(frozen=True)
class Distil(Causal):
    """(1 - share) (-log q(x[t+1])) + share T^2 KL(p_T || q_T): Hinton et al. 2015, arXiv:1503.02531, section 2.

    p is the teacher, q the model, both at ``temperature`` T, whose square keeps the gradient's size. The teacher is a
    column of the data: its ``top`` likeliest tokens of each place, all others counted as one. ``teacher`` names a
    checkpoint, or ``self``, the model that the stage starts from: it reads each conversation behind the ``context`` of
    its record, which the student never sees (context distillation: Askell et al. 2021, arXiv:2112.00861, section 2.3).
    """

    teacher: str = ""
    top: int = 32
    temperature: float = 1.0
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher:
            raise UsageProblem("distil has no teacher", remedy="name a checkpoint, or self: the model before the stage")
        if self.top < 1 or self.temperature <= 0:
            raise UsageProblem(
                f"top {self.top}, temperature {self.temperature}",
                remedy="give a top of 1 or more, a temperature above 0",
            )
        if not 0 < self.share <= 1:
            raise UsageProblem(f"share is {self.share}", remedy="give the teacher's share of the loss, above 0 up to 1")

    def taught_by(self) -> Teacher | None:
        """The teacher."""
        return Teacher(self.teacher, self.top, self.temperature)

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """As ``Causal``, with the terms ``token`` (unless all is the teacher's) and ``teacher``."""
        ready = super().prepare(model, batch, rng)
        ready.weight["teacher"] = ready.weight["token"]
        if self.share == 1:
            del ready.weight["token"]
        token, logprob = (torch.roll(batch[name], -1, dims=1) for name in ("teacher_token", "teacher_logprob"))
        return ready.with_(teacher_token=token, teacher_logprob=logprob)

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{token: (1 - share) -log q, teacher: share T^2 KL}, [B, T]."""
        hidden, where = model.hidden(batch), batch.weight["teacher"]
        near = model.closeness(hidden, batch.teacher_token, batch.teacher_logprob, where, temperature=self.temperature)
        losses = {"teacher": -self.share * self.temperature**2 * near}
        if self.share < 1:
            losses["token"] = (1 - self.share) * self.nats(model, hidden, batch.target, where)
        return losses
