"""What reading the first text of a pair is worth in the second: the loss of the words that bridge the two."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from didact.batch import Batch
from didact.data.corpus import Corpus, in_memory
from didact.data.example import Example
from didact.data.pieces import cut
from didact.engine.evaluate import evaluate
from didact.errors import DataProblem
from didact.measure.base import Measure, Subject
from didact.objective.base import LanguageModel
from didact.objective.linked import Together
from didact.rng import Rng


@dataclass(frozen=True)
class Bridge(Measure):
    """The mean loss of bridging tokens: those of the second text that it has not said so far and the first one has.

    Only rare ones count, which at most the share ``rare`` of the first texts have: who has not read the first text
    cannot know them.
    """

    unit = "nats"
    better = "lower"

    rare: float = 0.1
    context: int = 512
    batch_size: int = 8

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """Mean loss a bridging token. Raises DataProblem where there is none."""
        corpus = in_memory(examples, subject.renderer)
        if corpus.text is None or corpus.text.max() != 1:
            raise DataProblem("bridges are measured on pairs of texts", remedy="name what a links stage leaves")
        rows = subject.model.decoder.weight.shape[0]
        objective = Bridges(rare=rare_tokens(corpus, corpus.text, rows, self.rare).to(subject.mesh.device))
        parts = cut([corpus], self.context, "drop", joined=True)[0]
        score = evaluate(subject.model, objective, parts, self.context, subject.mesh, self.batch_size)
        if not score.tokens:
            raise DataProblem("no rare token of a second text is in its first", remedy="raise rare, or give more pairs")
        return score.loss


@dataclass(frozen=True)
class Bridges(Together):
    """``Together``, where only bridging tokens count; ``rare`` bool [V]."""

    rare: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """The weight of all other tokens is 0."""
        ready = super().prepare(model, batch, rng)
        bridging = torch.roll(bridges(batch, self.rare), -1, dims=1)
        return ready.with_({"token": ready.weight["token"] * bridging})


def bridges(batch: Batch, rare: Tensor) -> Tensor:
    """The rare tokens of each second text that the first one has and it has not had before, bool [B, T]."""
    equal = batch.token[:, :, None] == batch.token[:, None, :]  # [B, T, T]
    first, second = (batch.doc == 0)[:, None, :], (batch.doc == 1)[:, None, :]
    before = torch.ones_like(equal[0]).tril(-1)
    repeated = (equal & second & before).any(2)
    return rare[batch.token] & (batch.doc == 1) & (equal & first).any(2) & ~repeated


def rare_tokens(corpus: Corpus, text: np.ndarray, size: int, share: float) -> Tensor:
    """The ids that at most ``share`` of the first texts have, bool [V]."""
    example = np.repeat(np.arange(len(corpus)), np.diff(corpus.bound))
    held = np.unique(np.stack([corpus.token[text == 0], example[text == 0]]), axis=1)[0]
    return torch.from_numpy(np.bincount(held, minlength=size) <= share * len(corpus))
