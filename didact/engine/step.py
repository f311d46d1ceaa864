"""The training step of every objective: text or image, offline or on-policy, on any number of processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from didact.batch import Batch
from didact.data.stream import Stream
from didact.engine.mesh import Mesh
from didact.engine.settings import Turn
from didact.objective.base import LanguageModel, Objective
from didact.rng import Rng


@dataclass(frozen=True)
class Source:
    """A task before it is started: its data, its objective, and when and how much its loss counts."""

    name: str
    objective: Objective
    stream: Stream
    turn: Turn = field(default_factory=Turn)


@dataclass(frozen=True)
class Task:
    """Data, an objective, and how much its loss counts. A mixture is a longer list of tasks."""

    name: str
    objective: Objective
    stream: Iterator[tuple[Batch, int]]
    weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """What one step measured, over all processes: ``loss`` and ``weight`` by (task, term), ``rows`` in data order.

    ``gauge`` by (task, term) is what was measured beside; a gauge that nothing counted in is not there.
    """

    loss: dict[tuple[str, str], float]
    weight: dict[tuple[str, str], float]
    gauge: dict[tuple[str, str], float]
    tokens: int
    rows: list[int]
    cursors: dict[str, int]

    def total(self, tasks: Sequence[Task]) -> float:
        """The number that was minimised."""
        return sum(task.weight * value for task in tasks for (name, _), value in self.loss.items() if name == task.name)


class Interrupted(Exception):
    """The step was left before its update; nothing has changed."""


def take_step(
    model: LanguageModel,
    tasks: Sequence[Task],
    mesh: Mesh,
    rng: Rng,
    micro_rows: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> Step:
    """Adds the gradient of one step to the parameters.

    Every normaliser is counted over all micro-batches and processes before the first backward, so the gradient does
    not depend on how the step is cut (law 1). Raises Interrupted between micro-batches when asked to stop.
    """
    ready, cursors = [], {}
    with torch.no_grad():
        for task in tasks:
            batch, cursors[task.name] = next(task.stream)
            ready.append((task, task.objective.prepare(model, batch.to(mesh.device), rng)))
    total = mesh.sum({(task.name, term): w.sum() for task, batch in ready for term, w in batch.weight.items()})
    done: dict[tuple[str, str], list[Tensor]] = {key: [] for key in total}
    for task, batch in ready:
        for piece in task.objective.split(batch, micro_rows):
            if interrupted():
                raise Interrupted
            losses = task.objective.loss(model, piece)
            terms = {
                term: (loss * piece.weight[term]).sum() / total[task.name, term].clamp(min=1e-30).to(loss)
                for term, loss in losses.items()
            }
            minimised = [value for term, value in terms.items() if term not in task.objective.gauges]
            (task.weight * mesh.size * torch.stack(minimised).sum()).backward()
            for term, value in terms.items():
                done[task.name, term].append(value.detach())
    read = torch.tensor(float(sum(_tokens(batch) for _, batch in ready)))
    mine = {key: torch.stack(values).cpu().double().sum() for key, values in done.items()}  # one wait for the device
    summed = mesh.sum({**mine, "tokens": read})
    gauges = {(task.name, term) for task in tasks for term in task.objective.gauges}
    return Step(
        loss={key: summed[key].item() for key in total if key not in gauges},
        weight={key: value.item() for key, value in total.items() if key not in gauges},
        gauge={key: summed[key].item() for key in total if key in gauges and total[key] > 0},
        tokens=int(summed["tokens"]),
        rows=[row for _, batch in ready if "row" in batch for row in mesh.gather(batch.row.tolist())],
        cursors=cursors,
    )


def _tokens(batch: Batch) -> int:
    doc: Tensor | None = batch.get("doc")
    return batch.size if doc is None else int((doc >= 0).sum())
