"""Held-out quality as bits per byte: comparable across tokenizers, because bytes are the data's own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from didact.data.pieces import Pieces
from didact.data.stream import EPOCH, TokenStream
from didact.engine.mesh import Mesh
from didact.errors import UsageProblem
from didact.model.model import Model
from didact.objective import diffusion
from didact.objective.base import Objective
from didact.objective.tokens import Causal, Prefix
from didact.rng import Rng


@dataclass(frozen=True)
class Score:
    """Negative log-likelihood of held-out text."""

    nats: float
    tokens: int
    text_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """nats / (bytes ln 2)."""
        return self.nats / (self.text_bytes * math.log(2))

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens if self.tokens else math.nan


def scorer(model: Model) -> Objective:
    """The objective that scores text as the model reads it.

    Raises UsageProblem for an encoder, which gives no text a probability.
    """
    if "text_diffusion" in model.served:
        return diffusion.bound(model.served)
    if model.encoder:
        raise UsageProblem(
            "an encoder reads text in both directions, so its bits per byte cannot be measured",
            remedy="measure a held-out loss: evaluate: {measures: {words: {loss: {data: ..., objective: masked}}}}",
        )
    return Prefix() if model.bidirectional_prompt else Causal()


@torch.no_grad()
def evaluate(
    model: Model,
    objective: Objective,
    parts: Sequence[Pieces],
    context: int,
    mesh: Mesh,
    rows: int = 4,
    term: str | None = None,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> Score:
    """Scores every piece once, over all processes; leaves the model's training mode as it was.

    ``term`` is the objective's term that counts, the only one unless given. Raises UsageProblem where that is none.
    """
    stream = TokenStream(parts, context, rows * mesh.size, 0, shuffle=False, rank=mesh.rank, world=mesh.size)
    count, training = len(stream.epoch(0)), model.training
    model.eval()
    nats, tokens = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    batches = stream.start(0)
    for start in range(0, count, rows * mesh.size):
        batch = next(batches)[0]
        batch = batch.rows(batch.row < EPOCH) if bool((batch.row < EPOCH).any()) else batch.rows(slice(0, 1))
        ready = objective.prepare(model, batch.to(mesh.device), Rng(0, 0))
        name = term or (next(iter(ready.weight)) if len(ready.weight) == 1 else "")
        if name not in ready.weight:
            known = ", ".join(ready.weight)
            raise UsageProblem(f"the objective has no term {name!r}", remedy=f"set term to one of: {known}")
        counts = (ready.row < EPOCH).view(-1, *[1] * (ready.weight[name].dim() - 1))
        weight = ready.weight[name] * counts  # the last batch wraps into the next epoch
        loss = objective.loss(model, ready)[name]
        nats += (loss * weight).double().sum().cpu()
        tokens += weight.double().sum().cpu()
        tick(min(start + rows * mesh.size, count), count)
    mesh.reshard(model)
    model.train(training)
    total = mesh.sum({"nats": nats, "tokens": tokens})
    return Score(total["nats"].item(), int(total["tokens"]), int(sum(part.corpus.text_bytes.sum() for part in parts)))
