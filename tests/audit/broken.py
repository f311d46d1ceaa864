"""Objectives with a bug each, for the laws to find."""

from dataclasses import dataclass

import torch

from didact.objective.tokens import Causal


@dataclass(frozen=True)
class MeanOfPieces(Causal):
    """Averages inside the loss: the gradient depends on how the step is cut."""

    def loss(self, model, batch):
        loss = super().loss(model, batch)["token"]
        return {"token": loss * 7 / batch.weight["token"].sum().clamp(min=1)}


@dataclass(frozen=True)
class Leaking(Causal):
    """Counts a row's documents: packing changes the loss."""

    def loss(self, model, batch):
        return {"token": super().loss(model, batch)["token"] * (1 + batch.doc.max(1).values[:, None])}


@dataclass(frozen=True)
class Greedy(Causal):
    """Trains what is only to be read."""

    def prepare(self, model, batch, rng):
        ready = super().prepare(model, batch, rng)
        return ready.with_({"token": ready.weight["token"].clamp(min=0.5)})


@dataclass(frozen=True)
class Lucky(Causal):
    """Draws from the clock: no resumed run is the same."""

    def loss(self, model, batch):
        noise = torch.rand(1, generator=torch.Generator().manual_seed(torch.seed() % 1000))
        return {"token": super().loss(model, batch)["token"] * (1 + noise)}
