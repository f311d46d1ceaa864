"""What the passages in a prompt are worth to a model: how much surer of the answer they make it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from didact.data.corpus import in_memory
from didact.data.example import Conversation, Example
from didact.errors import DataProblem
from didact.measure.base import Measure, Subject
from didact.measure.loss import Loss
from didact.text.quote import asked, task


@dataclass(frozen=True)
class Worth(Measure):
    """The nats a token of the answer that the passages save: the loss without them less the loss with them.

    Examples are questions behind passages, as the stage ``raft`` makes them. Longer ones than ``context`` are an error:
    both losses are of the same answers.
    """

    unit = "nats"
    better = "higher"

    context: int = 1024
    batch_size: int = 8

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """Below zero where the passages only confuse."""
        loss = Loss(objective="sft", context=self.context, batch_size=self.batch_size, overlong="drop")
        bare = [alone(example) for example in examples]
        for example, length in zip(examples, np.diff(in_memory(examples, subject.renderer).bound), strict=True):
            if length > self.context:
                what = f"the conversation has {length} tokens, more than the context of {self.context}"
                raise DataProblem(what, where=example.where, remedy="raise context, or give fewer distractors")
        return loss(subject, bare) - loss(subject, examples)


def alone(example: Example) -> Conversation:
    """The same conversation without passages, and without what is said of them. Raises DataProblem for others."""
    bare: list[dict] = []
    for message in example.messages if isinstance(example, Conversation) else ():
        if message["role"] == "user":
            message = {**message, "content": asked(message["content"])}
        if message != {"role": "system", "content": task()}:
            bare.append(message)
    if not isinstance(example, Conversation) or tuple(bare) == example.messages:
        remedy = "give what a raft stage leaves"
        raise DataProblem("no passages stand before this question", where=example.where, remedy=remedy)
    return replace(example, messages=tuple(bare))
