"""What an objective is: an equation whose fields are its configuration.

An objective never reduces, and never touches the optimizer, the processes or the data. ``prepare`` sees the whole
step without gradients and holds all randomness; ``loss`` is pure. The engine owns the mean: a term's loss is summed
with its weights and divided by the sum of the weights of the whole step, over all micro-batches and processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from didact.batch import Batch
from didact.rng import Rng


class LanguageModel(Protocol):
    """What an objective may ask of a model."""

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states, [B, T, D]."""
        ...

    def logprob(self, hidden: Tensor, target: Tensor, where: Tensor) -> Tensor:
        """Log-probability of ``target`` where ``where`` is not zero, 0 elsewhere; fp32 [B, T]."""
        ...


@dataclass(frozen=True)
class Objective:
    """The base of every objective.

    ``bidirectional_prompt`` says that a model trained so reads the opening of a document, up to its first trained
    token, in both directions; its checkpoint tells the sampler.
    """

    bidirectional_prompt: ClassVar[bool] = False

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds what ``loss`` needs, above all ``batch.weight``, one tensor a term."""
        raise TypeError(f"{type(self).__name__} does not say how to prepare a batch")

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """One loss a term, unreduced, shaped like ``batch.weight[term]``."""
        raise TypeError(f"{type(self).__name__} does not say what its loss is")

    def split(self, batch: Batch, rows: int) -> list[Batch]:
        """Cuts a step into micro-batches of at most ``rows`` rows."""
        return [batch.rows(slice(start, start + rows)) for start in range(0, batch.size, rows)]
