"""Next-token prediction, and the prefix variant that reads its prompt in both directions.

Whether this pretrains, continues or fine-tunes is a matter of which tokens the data marks as trained: all of a
document, or an assistant's words and the end of its turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective import goldfish
from didact.objective.base import LanguageModel, Objective
from didact.rng import Rng


def next_token(batch: Batch) -> tuple[Tensor, Tensor]:
    """The token after each position and whether it is to be predicted there, both [B, T].

    A position predicts its successor only inside one document, and inside one of its answers where it has several, so a
    packed row never asks for the first token of one from the last of another.
    """
    target = torch.roll(batch.token, -1, dims=1)
    same = batch.doc == torch.roll(batch.doc, -1, dims=1)
    if "answer" in batch:
        same &= batch.answer == torch.roll(batch.answer, -1, dims=1)
    same[:, -1] = False
    return target, (same & torch.roll(batch.trained, -1, dims=1)).float()


def causal_reach(batch: Batch) -> Tensor:
    """Every token sees its document up to itself: reach[q] = q, [B, T]."""
    return torch.arange(batch.token.shape[1], device=batch.token.device).expand_as(batch.token)


def prefix_reach(batch: Batch) -> Tensor:
    """Tokens before a document's first trained one see all of these; the others see back from themselves, [B, T]."""
    index = causal_reach(batch)
    length = index.shape[1]
    doc = batch.doc.long().clamp(min=0)
    first = torch.full_like(index, length).scatter_reduce(
        1, doc, torch.where(batch.trained, index, length), "amin"
    )  # [B, T]: a document's first trained index, by document number
    end = first.gather(1, doc) - 1
    return torch.where((index <= end) & (end < length - 1), end, index)


def whole_reach(batch: Batch) -> Tensor:
    """Every token sees all of its document: reach[q] is the index of the document's last token, [B, T]."""
    index = causal_reach(batch)
    last = batch.doc != torch.roll(batch.doc, -1, dims=1)
    last[:, -1] = True
    after = torch.where(last, index, index.shape[1]).flip(1)
    return after.cummin(1).values.flip(1)  # the nearest end at or after each token


@dataclass(frozen=True)
class Tokens(Objective):
    """What every objective that predicts tokens may add to ``-log p(y)``.

    ``label_smoothing`` e: ``-(1 - e) log p(y) - e mean_v log p(v)`` (Szegedy et al. 2016, section 7; the loss of
    ``torch.nn.functional.cross_entropy``). ``z_loss`` c: ``+ c log^2 Z``, which keeps the logits from drifting (PaLM,
    arXiv:2204.02311, section 5; 1e-4 there). Z is the softmax's normaliser.
    """

    label_smoothing: float = field(default=0.0, kw_only=True)
    z_loss: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageProblem(f"label_smoothing is {self.label_smoothing}", remedy="give a share from 0, below 1")
        if self.z_loss < 0:
            raise UsageProblem(f"z_loss is {self.z_loss}", remedy="give 0 or more, usually 1e-4")

    def nats(self, model: LanguageModel, hidden: Tensor, target: Tensor, where: Tensor) -> Tensor:
        """The loss of ``target`` where ``where`` is not zero, fp32 [B, T]."""
        return -model.logprob(hidden, target, where, smoothing=self.label_smoothing, z_loss=self.z_loss)


@dataclass(frozen=True)
class Causal(Tokens):
    """-log p(x[t+1] | x[<=t]), averaged over the trained tokens of the step.

    ``goldfish`` k leaves one target in k out, always the same ones after the same ``goldfish_context`` tokens; see
    ``goldfish``.
    """

    goldfish: int = 0
    goldfish_context: int = 13

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.goldfish == 1 or self.goldfish < 0 or self.goldfish_context < 1:
            given = f"goldfish {self.goldfish}, goldfish_context {self.goldfish_context}"
            raise UsageProblem(given, remedy="give goldfish 2 or more (0 for none) and a context of 1 or more")

    def reach(self, batch: Batch) -> Tensor:
        """Who sees whom; see ``Batch``."""
        return causal_reach(batch)

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds ``target``, ``reach`` and the weight of the one term, ``token``."""
        target, weight = next_token(batch)
        if self.goldfish:
            learned = goldfish.kept(batch.token, batch.doc, self.goldfish, self.goldfish_context)
            weight = weight * torch.roll(learned, -1, dims=1)
        return batch.with_({"token": weight}, target=target, reach=self.reach(batch))

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{token: -log p}, [B, T]."""
        return {"token": self.nats(model, model.hidden(batch), batch.target, batch.weight["token"])}


@dataclass(frozen=True)
class Prefix(Causal):
    """As ``Causal``, but the prompt is read in both directions (prefix-LM; Raffel et al. 2020, section 3.2.1)."""

    def served(self) -> dict[str, Any]:
        """The prompt is read in both directions."""
        return {"bidirectional_prompt": True}

    def reach(self, batch: Batch) -> Tensor:
        """The prompt sees all of itself."""
        return prefix_reach(batch)
