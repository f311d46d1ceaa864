"""Bits per byte of a model as it is read: the one number that compares models of every kind and tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from didact.data.corpus import in_memory
from didact.data.example import Example
from didact.data.pieces import cut
from didact.engine.evaluate import evaluate, scorer
from didact.measure.base import Measure, Subject


@dataclass(frozen=True)
class BitsPerByte(Measure):
    """The examples' negative log-likelihood over their bytes; of a diffusion model an upper bound, drawn once."""

    unit = "bits per byte"
    better = "lower"

    context: int = 512
    batch_size: int = 8
    overlong: Literal["drop", "window"] = "window"

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """nats / (bytes ln 2)."""
        parts = cut([in_memory(examples, subject.renderer)], self.context, self.overlong)[0]
        objective = scorer(subject.model)
        return evaluate(subject.model, objective, parts, self.context, subject.mesh, self.batch_size).bits_per_byte
