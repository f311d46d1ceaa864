"""Who takes part in a rollout: the model that is trained, whole on every process, and the one it started as."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from didact.batch import Batch
from didact.engine.mesh import Mesh
from didact.model import lora
from didact.model.model import Model
from didact.objective.tokens import causal_reach, next_token


class Cast:
    """The model as it answers, and the reference.

    ``whole`` makes the model as the stage found it, for processes that each hold a share of the one in training. The
    reference is that model too, or, where nothing but a LoRA is trained (``adapts``), the model without it.
    """

    def __init__(self, model: Model, mesh: Mesh, whole: Callable[[], Model]):
        self.model, self.mesh = model, mesh
        self.copy = None if mesh.size == 1 else frozen(whole().to(mesh.device))
        trained = [name for name, weight in model.net.named_parameters() if weight.requires_grad]
        self.adapts = bool(trained) and all("lora_A" in name or "lora_B" in name for name in trained)
        self.start: Model | None = None
        if not self.adapts:
            self.start = frozen(deepcopy(model) if self.copy is None else whole().to(mesh.device))
            self.start.critic = None

    def actor(self) -> Model:
        """The model of this moment; every process calls it."""
        if self.copy is None:
            return self.model
        kept = self.copy.state_dict()
        for name, value in self.mesh.gathered(self.model).items():
            kept[name].copy_(value)
        return self.copy

    @contextmanager
    def reference(self) -> Iterator[Model]:
        """The model that the stage started from."""
        if self.start is not None:
            yield self.start
            return
        model = self.copy or self.model
        layers = lora.adapted(model.net).values()
        scales = [layer.scale for layer in layers]
        for layer in layers:
            layer.scale = 0.0
        try:
            yield model
        finally:
            for layer, scale in zip(layers, scales, strict=True):
                layer.scale = scale


def frozen(model: Model) -> Model:
    """The model in evaluation mode, nothing of it trained."""
    return model.requires_grad_(False).eval()


def without_dropout(model: nn.Module) -> None:
    """What is learned is compared with what was read without dropout, by a reference or a sampler: so none here."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@torch.no_grad()
def read(model: Model, batch: Batch, temperature: float, rows: int) -> Tensor:
    """Log-probabilities of the trained tokens, each in its place, on the CPU [B, T]; ``rows`` are read at a time."""
    found = [_logprob(model, part, temperature) for part in _parts(model, batch, rows)]
    return torch.cat(found)


@torch.no_grad()
def values(model: Model, batch: Batch, rows: int) -> Tensor:
    """What the critic expects before each trained token, in the token's place, on the CPU [B, T]."""
    found = []
    for part in _parts(model, batch, rows):
        expected = model.value(part.with_(reach=causal_reach(part))) * next_token(part)[1]
        found.append(torch.roll(expected, 1, dims=1).cpu())
    return torch.cat(found)


def _parts(model: Model, batch: Batch, rows: int) -> Iterator[Batch]:
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for start in range(0, batch.size, rows):
            yield batch.rows(slice(start, start + rows)).to(device)
    finally:
        model.train(training)


def _logprob(model: Model, part: Batch, temperature: float) -> Tensor:
    target, asked = next_token(part)
    hidden = model.hidden(part.with_(reach=causal_reach(part)))
    found = model.logprob(hidden, target, asked, temperature=temperature)
    return torch.roll(found, 1, dims=1).cpu()
