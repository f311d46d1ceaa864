"""What learns from judged answers: how they are read, and what they gain on a reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.answers import by_answer
from didact.objective.base import LanguageModel, Objective
from didact.objective.tokens import causal_reach, next_token


@dataclass(frozen=True)
class Judged(Objective):
    """The base of what learns from judged answers, each read behind its prompt as it would be written."""

    judged: ClassVar[bool] = True

    def told(self, served: Mapping[str, Any]) -> Self:
        """Raises UsageProblem for a model that reads prompts otherwise than left to right: answers share theirs."""
        if found := {"bidirectional_prompt", "text_diffusion"} & served.keys():
            what = f"the model is read otherwise than left to right ({min(found)}), and answers are compared so"
            raise UsageProblem(what, remedy="align a model that was trained with causal or sft")
        return self

    def read(self, batch: Batch) -> Batch:
        """Adds ``target``, ``said`` (where an answer's token is predicted) and ``reach``, all [B, T].

        ``reference`` is moved to where its tokens are predicted.
        """
        target, said = next_token(batch)
        ready = batch.with_(target=target, said=said, reach=causal_reach(batch))
        if self.taught_by():
            if "reference" not in batch:
                what = f"{type(self).__name__} holds answers against a reference, and these have none"
                raise UsageProblem(what, remedy="train with it in a stage; to measure, take the measure 'preference'")
            ready["reference"] = torch.roll(batch.reference, -1, dims=1) * said
        return ready

    def gains(self, model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p of every answer's token where it is predicted, and what it gained on the reference; fp32 [B, T]."""
        logprob = model.logprob(model.hidden(batch), batch.target, batch.said)
        return logprob, logprob - batch.reference if self.taught_by() else logprob


def spread(x: Tensor, batch: Batch) -> Tensor:
    """What an answer has [B, A], at each of its tokens [B, T]; 0 elsewhere."""
    return x.gather(1, batch.answer.clamp(min=0)) * (batch.answer >= 0)


def mean_by_answer(x: Tensor, batch: Batch) -> Tensor:
    """The mean over the tokens of each answer, [B, A]."""
    return by_answer(x, batch) / by_answer(batch.said, batch).clamp(min=1)


def positive(name: str, value: float) -> None:
    """Raises UsageProblem unless the number is above zero."""
    if not value > 0:
        raise UsageProblem(f"{name} is {value}", remedy="give a number above 0, such as 0.1")
