"""The laws that every objective obeys, as measurements: each returns how far it is from holding, 0 at best.

The tests hold them against every objective at toy size; ``didact doctor`` against the user's own model and data.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from didact.batch import Batch
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.model.model import Model
from didact.objective.base import Objective
from didact.rng import Rng


def gradient(model: nn.Module) -> dict[str, Tensor]:
    """Every gradient, taken off the model."""
    found = {}
    for name, p in model.named_parameters():
        if p.grad is not None:
            found[name], p.grad = p.grad.detach().clone(), None
    return found


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the first."""
    if one.keys() != other.keys():
        return float("inf")
    apart = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    whole = sum(float(value.double().square().sum()) for value in one.values())
    return (apart / max(whole, 1e-300)) ** 0.5


def step_gradient(
    model: Model, objective: Objective, batch: Batch, micro_rows: int, seed: int = 0
) -> dict[str, Tensor]:
    """The gradient that one step on ``batch`` gives."""
    device = next(model.parameters()).device
    take_step(model, [Task("task", objective, _once(batch))], Mesh(device), Rng(seed, 0), micro_rows)
    return gradient(model)


def micro_batches(model: Model, objective: Objective, batch: Batch) -> float:
    """Law 1: the gradient of the whole batch at once against row by row."""
    return distance(step_gradient(model, objective, batch, batch.size), step_gradient(model, objective, batch, 1))


def packing(model: Model, objective: Objective, packed: Batch, alone: Batch) -> float:
    """Law 2: the gradient of packed rows against one document a row."""
    return distance(
        step_gradient(model, objective, packed, packed.size), step_gradient(model, objective, alone, alone.size)
    )


def weight_zero(model: Model, objective: Objective, batch: Batch) -> float:
    """Law 3: the last row is untrained; then its content must not matter, nor whether it is there."""
    mute = batch["trained"].clone()
    mute[-1] = False
    other = batch["token"].clone()
    other[-1] = other[-1].flip(0)
    with_row = step_gradient(model, objective, batch.with_(trained=mute), batch.size)
    changed = step_gradient(model, objective, batch.with_(trained=mute, token=other), batch.size)
    without = step_gradient(model, objective, batch.rows(slice(0, batch.size - 1)), batch.size)
    return max(distance(with_row, changed), distance(with_row, without))


def unpacked(batch: Batch) -> Batch:
    """The documents of packed rows, one a row, padded."""
    pieces = [
        {name: batch[name][row, span] for name in ("token", "position", "trained")}
        for row in range(batch.size)
        for span in _spans(batch["doc"][row])
    ]
    width = max(len(piece["token"]) for piece in pieces)

    def column(name: str, fill: int | bool) -> Tensor:
        return torch.stack(
            [nn.functional.pad(piece[name], (0, width - len(piece[name])), value=fill) for piece in pieces]
        )

    doc = torch.stack([torch.where(torch.arange(width) < len(piece["token"]), 0, -1) for piece in pieces])
    return Batch(
        {
            "token": column("token", 0),
            "position": column("position", 0),
            "trained": column("trained", False),
            "doc": doc.int(),
            "row": torch.arange(len(pieces)),
        }
    )


def sampled_as_trained(
    model: Model, objective: Objective, prompt: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]
) -> float:
    """Law 5: the sampler's log-probabilities against those of the training path, with the objective's own reach."""
    device = next(model.parameters()).device
    token = torch.tensor([[*prompt, *tokens]], device=device)
    index = torch.arange(token.shape[1], device=device)[None]
    document = {"token": token, "position": index, "doc": torch.zeros_like(index), "trained": index >= len(prompt)}
    batch = Batch({**document, "row": torch.zeros(1, dtype=torch.int64, device=device)})
    with torch.no_grad():
        ready: Any = objective.prepare(model, batch, Rng(0, 0))
        where = (index >= len(prompt) - 1) & (index < token.shape[1] - 1)
        found = model.logprob(model.hidden(ready), token.roll(-1, 1), where.float())[where]
    return float((found.cpu() - torch.tensor(logprobs)).abs().max())


def _once(batch: Batch) -> Iterator[tuple[Batch, int]]:
    yield batch, 1


def _spans(doc: Tensor) -> Iterator[slice]:
    """The unbroken runs of one row's documents, padding left out."""
    numbers, lengths = torch.unique_consecutive(doc, return_counts=True)
    start = 0
    for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True):
        if number >= 0:
            yield slice(start, start + length)
        start += length
