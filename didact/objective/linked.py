"""Linked documents: two texts in one row that see each other, and how the second is related to the first.

LinkBERT (Yasunaga et al. 2022, arXiv:2203.15827), section 4.3: masked tokens are predicted, and from the first token
whether the texts are contiguous, random or linked. ``Linked`` is the same for a decoder, which reads the relation from
the last token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.base import LanguageModel
from didact.objective.masked import Masked
from didact.objective.tokens import Causal
from didact.rng import Rng

RELATIONS = 3  # contiguous, random, linked


def together(batch: Batch) -> Batch:
    """The texts of each row as one document, whose positions run on. Raises UsageProblem for rows of other data."""
    if "value" not in batch:
        raise UsageProblem("this objective reads pairs of texts", remedy="give it what a links stage leaves")
    inside = batch.doc >= 0
    index = torch.arange(inside.shape[1], device=inside.device)
    return batch.with_(doc=torch.where(inside, 0, -1).int(), position=torch.where(inside, index, 0))


def with_relation(batch: Batch) -> Batch:
    """Adds ``relation`` [B], the number to be told, and the weight of the term ``relation`` [B].

    Raises UsageProblem for rows that have none.
    """
    if not bool(((batch.value >= 0) & (batch.value < RELATIONS) & (batch.value % 1 == 0)).all()):
        what = "these pairs of texts have no relation"
        raise UsageProblem(what, remedy="give records of first, second and relation, as a links stage leaves")
    return batch.with_({"relation": batch.trained.any(1).float()}, relation=batch.value.long())


def relation_nats(model: LanguageModel, hidden: Tensor, relation: Tensor) -> Tensor:
    """-log p(relation) of one hidden state a row: [B, D], [B] -> fp32 [B]."""
    return F.cross_entropy(model.head("relation", hidden), relation, reduction="none")


@dataclass(frozen=True)
class Together(Causal):
    """As ``Causal``, over the texts of an example one after the other: each sees those before it."""

    several: ClassVar[bool] = True
    joined: ClassVar[bool] = True

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """See ``Causal``."""
        return super().prepare(model, together(batch), rng)


@dataclass(frozen=True)
class Linked(Together):
    """-log p(x[t+1] | x[<=t]) and ``relation`` times -log p(r | both texts), read from the last token."""

    heads: ClassVar[Mapping[str, int]] = {"relation": RELATIONS}

    relation: float = 1.0

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """The weights of two terms, ``token`` [B, T] and ``relation`` [B]."""
        return with_relation(super().prepare(model, batch, rng))

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{token: [B, T], relation: [B]}."""
        hidden = model.hidden(batch)
        last = hidden[torch.arange(batch.size), (batch.doc >= 0).sum(1) - 1]  # [B, D]
        return {
            "token": self.nats(model, hidden, batch.target, batch.weight["token"]),
            "relation": self.relation * relation_nats(model, last, batch.relation),
        }


@dataclass(frozen=True)
class LinkedMasked(Masked):
    """Masked tokens of both texts, and ``relation`` times -log p(r | both texts), read from the first token."""

    several: ClassVar[bool] = True
    joined: ClassVar[bool] = True
    heads: ClassVar[Mapping[str, int]] = {"relation": RELATIONS}

    relation: float = 1.0

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """The weights of two terms, ``token`` [B, T] and ``relation`` [B]."""
        return with_relation(super().prepare(model, together(batch), rng))

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{token: [B, T], relation: [B]}."""
        hidden = model.hidden(batch)
        return {
            "token": self.nats(model, hidden, batch.target, batch.weight["token"]),
            "relation": self.relation * relation_nats(model, hidden[:, 0], batch.relation),
        }
