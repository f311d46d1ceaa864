"""The loop around the step: resume, clip, watch, update, record, save, stop when asked."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from didact.batch import Batch
from didact.data.stream import Stream, TokenStream
from didact.engine import checkpoint
from didact.engine.alarms import Verdict, Watch
from didact.engine.mesh import Mesh
from didact.engine.meter import Meter, Reading, flops_per_token, measure_peak
from didact.engine.metrics import Metrics
from didact.engine.optimizer import Optimizer
from didact.engine.precision import compiled
from didact.engine.progress import Progress
from didact.engine.schedule import scale
from didact.engine.settings import Training
from didact.engine.step import Interrupted, Step, Task, take_step
from didact.engine.stop import StopFlag, listening
from didact.errors import Diverged, Preempted, ResourceProblem, UsageProblem
from didact.model.model import Model
from didact.objective.base import Objective
from didact.rng import Rng, mix


@dataclass(frozen=True)
class Source:
    """A task before it is started: its data, its objective, and how much its loss counts."""

    name: str
    objective: Objective
    stream: Stream
    weight: float = 1.0


@dataclass
class Place:
    """Where a run stands; with tensors, watch and meter it is all that a resumed run needs."""

    step: int = 0
    tokens: int = 0
    trained: int = 0
    cursors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a finished run of the loop reports."""

    steps: int
    tokens: int
    loss: float
    reading: Reading


def length(settings: Training, stream: TokenStream) -> int:
    """Steps of a run: the first reached of epochs, max_steps and tokens; one epoch when none is said."""
    rows, tokens = len(stream.epoch(0)), stream.tokens_per_epoch()
    bounds = [settings.max_steps] if settings.max_steps else []
    if settings.tokens:
        bounds.append(settings.tokens * rows / tokens / settings.batch_size)
    if settings.epochs or not bounds:
        bounds.append((settings.epochs or 1.0) * rows / settings.batch_size)
    return max(1, math.ceil(min(bounds)))


def rows_per_process(settings: Training, mesh: Mesh) -> int:
    """Rows each process takes of a step. Raises UsageProblem when they cannot be shared evenly."""
    if settings.batch_size % mesh.size:
        raise UsageProblem(
            f"batch_size {settings.batch_size} cannot be shared by {mesh.size} processes",
            remedy=f"make it a multiple of {mesh.size}",
        )
    return settings.batch_size // mesh.size


class Loop:
    """One stage's training: made, restored from its newest whole checkpoint, and run to its end."""

    def __init__(
        self,
        model: Model,
        sources: Sequence[Source],
        settings: Training,
        steps: int,
        folder: Path,
        mesh: Mesh,
        say: Callable[[str], None],
        name: str = "train",
    ):
        self.model, self.sources, self.settings, self.steps = model, sources, settings, steps
        self.folder, self.mesh, self.say, self.name = folder, mesh, say, name
        self.optimizer = Optimizer(model, settings, model.outer())
        self.watch = Watch()
        self.meter = Meter(steps, None, mesh.device, **work(model, settings.context))
        self.place = Place(cursors={source.name: 0 for source in sources})
        self.micro = min(settings.micro_batch_size, rows_per_process(settings, mesh))

    def run(self) -> Trained:
        """Trains from wherever the last run stopped. Raises Preempted (saved), Diverged, ResourceProblem."""
        self._restore()
        probe(self.model, self.sources, self.settings, self.mesh, self.micro)
        self.optimizer.zero()
        self.meter.lap()
        loss, reading = math.nan, self.meter.stop()
        with listening() as stop, self._metrics() as metrics, self._progress() as progress:
            tasks = self._tasks()
            model = compiled(self.model, self.settings, self.steps - self.place.step)
            while self.place.step < self.steps:
                torch.manual_seed(mix(self.settings.seed, self.place.step, self.mesh.rank))
                try:
                    step = take_step(
                        model, tasks, self.mesh, Rng(self.settings.seed, self.place.step), self.micro, self._asked(stop)
                    )
                except Interrupted:
                    self._preempt(stop)
                loss = step.total(tasks)
                norm, rate, rolled_back = self._update(step, loss)
                if rolled_back:
                    tasks = self._tasks()
                    continue
                reading = self.meter.step(step.tokens // self.mesh.size)
                self._record(metrics, progress, step, loss, norm, rate, reading)
                if self.mesh.any(stop()):
                    self._preempt(stop)
                if self.place.step % self.settings.save_every == 0 and self.place.step < self.steps:
                    self._save()
                    self.meter.lap()
        return Trained(self.place.step, self.place.tokens, loss, self.meter.stop())

    def _update(self, step: Step, loss: float) -> tuple[float, float, bool]:
        """Clips, asks the watch, updates. Returns (gradient norm, learning-rate scale, was it rolled back)."""
        norm = float(self.optimizer.clip(self.settings.grad_clip))
        rate = scale(self.place.step, self.steps, self.settings)
        verdict, lines = self.watch.check(
            self.place.step + 1, loss, norm, step.rows, rate * self.settings.learning_rate
        )
        for line in lines:
            self.say(line)
        self.place.cursors = step.cursors
        if verdict is Verdict.ROLLBACK and self._roll_back(step):
            return norm, rate, True
        if verdict in (Verdict.ROLLBACK, Verdict.STOP):  # nothing to go back to, or a second time
            raise Diverged(
                f"training diverged at step {self.place.step + 1} (rows {', '.join(map(str, step.rows))})",
                remedy="lower learning_rate, or look at these rows with `didact inspect`",
            )
        if verdict is Verdict.OK:
            self.optimizer.step(rate)
        self.optimizer.zero()
        self.place.step += 1
        self.place.tokens += step.tokens
        self.place.trained += int(sum(step.weight.values()))
        return norm, rate, False

    def _roll_back(self, step: Step) -> bool:
        """Goes back to the newest checkpoint, past the rows that broke it; False where there is none."""
        newest = checkpoint.latest(self._checkpoints, self.say)
        if newest is None:
            return False
        self._load(newest)
        self.place.cursors = step.cursors
        self.optimizer.zero()
        self.say(f"went back to step {self.place.step} and on with the data after the broken rows")
        return True

    def _tasks(self) -> list[Task]:
        return [
            Task(source.name, source.objective, source.stream.start(self.place.cursors[source.name]), source.weight)
            for source in self.sources
        ]

    def _asked(self, stop: StopFlag) -> Callable[[], bool]:
        """Alone, a process may leave a step midway; among several all must leave at the same place, its end."""
        return stop if self.mesh.size == 1 else lambda: False

    def _preempt(self, stop: StopFlag) -> None:
        self._save()
        name = stop.asked.name if stop.asked else "another process"
        raise Preempted(
            f"stopped by {name} after step {self.place.step} of {self.steps}; saved", remedy="run again to resume"
        )

    # ---- what is kept ------------------------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _save(self) -> None:
        self.optimizer.zero()
        state: dict[str, Any] = {
            "tokens": self.place.tokens,
            "trained": self.place.trained,
            "cursors": self.place.cursors,
            "watch": self.watch.state(),
            "meter": self.meter.state(),
            "threads": torch.get_num_threads(),
            "processes": self.mesh.size,
        }
        keep = self.settings.keep_checkpoints
        checkpoint.save(self._checkpoints, self.place.step, self.optimizer.tensors(), state, keep)

    def _restore(self) -> None:
        newest = checkpoint.latest(self._checkpoints, self.say)
        if newest is not None:
            self._load(newest)
            self.say(f"{self.name}: resumed at step {self.place.step} of {self.steps}")

    def _load(self, path: Path) -> None:
        state = checkpoint.load(path, self.optimizer.tensors())
        self.optimizer.publish()
        self.place = Place(state["step"], state["tokens"], state["trained"], dict(state["cursors"]))
        self.watch.restore(state["watch"])
        self.meter.restore(state["meter"])
        if state["processes"] == self.mesh.size:
            torch.set_num_threads(state["threads"])  # sums depend on it: a resumed run equals the unbroken one

    # ---- what is shown -----------------------------------------------------------------------------------------

    def _metrics(self) -> Metrics:
        metrics = Metrics(self.folder / "metrics.jsonl" if self.mesh.main else Path(os.devnull))
        if self.mesh.main:
            metrics.truncate_after(self.place.step)
        return metrics

    def _progress(self) -> Progress:
        return Progress(self.name, self.steps, quiet=not self.mesh.main)

    def _record(
        self, metrics: Metrics, progress: Progress, step: Step, loss: float, norm: float, rate: float, reading: Reading
    ) -> None:
        if not self.mesh.main:
            return
        progress.update(self.place.step, loss, reading)
        if self.place.step % self.settings.log_every == 0 or self.place.step == self.steps:
            metrics.write(
                self.place.step,
                loss=loss,
                grad_norm=norm,
                learning_rate=rate * self.settings.learning_rate,
                tokens=self.place.tokens,
                trained_tokens=self.place.trained,
                tokens_per_second=reading.tokens_per_second * self.mesh.size,
                seconds=reading.seconds,
                memory=reading.memory,
                energy_wh=reading.energy_wh,
                **({} if reading.share is None else {"share": reading.share}),
                **{f"loss/{name}/{term}": value for (name, term), value in step.loss.items() if len(step.loss) > 1},
            )


def work(model: Model, context: int) -> dict[str, float]:
    """What the meter needs for the share of the machine's peak: FLOPs a token and FLOP/s at best."""
    weight = next(model.layers.parameters())
    return {
        "flops_per_token": flops_per_token(model.net, context / 2),  # a causal token sees half its row on average
        "peak": measure_peak(weight.device, weight.dtype),
    }


def probe(model: Model, sources: Sequence[Source], settings: Training, mesh: Mesh, micro: int) -> None:
    """One forward and backward of the largest micro-batch before the first step, so that memory runs out at once.

    Raises ResourceProblem with what to change.
    """
    for source in sources:
        try:
            batch = full_batch(settings.context, micro).to(mesh.device)
            ready = source.objective.prepare(model, batch, Rng(settings.seed, -1))
            losses = source.objective.loss(model, ready)
            (0.0 * torch.stack([(loss * ready.weight[term]).sum() for term, loss in losses.items()]).sum()).backward()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise out_of_memory(settings, micro) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # how torch's CPU allocator says it
                raise
            raise out_of_memory(settings, micro) from error


def full_batch(context: int, rows: int) -> Batch:
    """Rows of one document of ``context`` tokens, every token trained."""
    index = torch.arange(context).expand(rows, context)
    return Batch(
        {
            "token": index % 7,
            "doc": torch.zeros(rows, context, dtype=torch.int32),
            "position": index.clone(),
            "trained": torch.ones(rows, context, dtype=torch.bool),
            "row": torch.arange(rows),
        }
    )


def out_of_memory(settings: Training, micro: int) -> ResourceProblem:
    """What to change when a micro-batch does not fit."""
    remedy = (
        "lower micro_batch_size"
        if micro > 1
        else "set activation_checkpointing: true"
        if not settings.activation_checkpointing
        else "lower context, or use tune: lora"
    )
    return ResourceProblem(
        f"a micro-batch of {micro} x {settings.context} tokens does not fit in memory", remedy=remedy
    )
