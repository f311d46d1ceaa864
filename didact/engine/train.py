"""The loop around the step: resume, clip, watch, update, record, save, stop when asked."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from didact.data.stream import TokenStream
from didact.engine import checkpoint
from didact.engine.alarms import Verdict, Watch
from didact.engine.brakes import Brakes
from didact.engine.mesh import Mesh
from didact.engine.meter import Meter, Reading, flops_per_token, measure_peak
from didact.engine.metrics import Metrics
from didact.engine.optimizer import Optimizer
from didact.engine.precision import compiled, compiles, pick_dtype
from didact.engine.probe import probe
from didact.engine.progress import Progress
from didact.engine.rules import rule
from didact.engine.schedule import scale
from didact.engine.settings import Training
from didact.engine.step import Interrupted, Source, Step, Task, take_step
from didact.engine.stop import StopFlag, Stopped, held
from didact.errors import Diverged, Preempted, UsageProblem
from didact.model.model import Model
from didact.rng import Rng, mix

SLOW = 5.0  # seconds a step may last before several processes agree midway on whether to leave it
STUCK = 0.5  # of the weights, which is worth a word


@dataclass
class Place:
    """Where a run stands; with tensors, watch and meter it is all that a resumed run needs.

    ``weight`` is what a ``ratio`` has set.
    """

    step: int = 0
    tokens: int = 0
    trained: int = 0
    loss: float = math.nan
    cursors: dict[str, int] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a finished run of the loop reports; ``stopped`` is the rule that ended it early, if one did."""

    steps: int
    tokens: int
    loss: float
    reading: Reading
    stopped: str = ""


def length(settings: Training, stream: TokenStream) -> int:
    """Steps of a run: the first reached of epochs, max_steps and tokens; one epoch when none is said."""
    rows, tokens = len(stream.epoch(0)), stream.tokens_per_epoch()
    bounds: list[float] = [settings.max_steps] if settings.max_steps else []
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
        model.everyone = mesh.everyone
        self.optimizer = Optimizer(model, settings)
        self.watch = Watch()
        self.brakes = Brakes([rule(text) for text in settings.stop_when])
        # The meter counts the tokens of all processes, and holds one against its share of the work.
        flops = flops_per_token(model.net, settings.context / 2)  # a causal token sees half its row on average
        peak = measure_peak(mesh.device, pick_dtype(settings.precision, mesh.device))
        self.meter = Meter(steps, None, mesh.device, flops_per_token=flops / mesh.size, peak=peak)
        self.place = Place(cursors={source.name: 0 for source in sources})
        self.micro = min(settings.micro_batch_size, rows_per_process(settings, mesh))
        self.slow = True  # until a step has been timed

    def run(self) -> Trained:
        """Trains from wherever the last run stopped. Raises Preempted (saved), Diverged, ResourceProblem."""
        self._check_turns()
        self.brakes.require(
            [(source.name, term) for source in self.sources for term in source.objective.gauges], self.name
        )
        self._restore()
        self._check_reach()
        compiled(self.model, compiles(self.settings, self.steps))
        probe(self.model, self.sources, self.settings, self.mesh, self.micro)
        self.optimizer.zero()
        self.meter.lap()
        with held() as stop, self._metrics() as metrics, self._progress() as progress:
            self._balance(stop)
            tasks = self._tasks()
            while not self.over:
                due = self._due(tasks)
                step = self._gradient(due, stop)
                norm, rate, rolled_back = self._update(step, step.total(due))
                if rolled_back:
                    tasks = self._tasks()
                    self._forget(metrics)
                    continue
                self._brake(step, norm)
                reading, asked = self._agree(self.meter.step(step.tokens), stop())
                self._record(metrics, progress, step, norm, rate, reading)
                if asked:
                    self._preempt(stop)
                if self.place.step % self.settings.save_every == 0 or self.over:
                    self._save()  # at the end too: what follows, the model's own save above all, may fail or be killed
                    self.meter.lap()
        if stop():  # while the last step was saved
            raise Stopped
        reading, _ = self._agree(self.meter.stop(), False)
        return Trained(self.place.step, self.place.tokens, self.place.loss, reading, self.brakes.stopped)

    @property
    def over(self) -> bool:
        """Whether the last step is done, or a rule has ended the run."""
        return self.place.step >= self.steps or bool(self.brakes.stopped)

    def _gradient(self, tasks: Sequence[Task], stop: StopFlag) -> Step:
        """The step's gradient; all randomness outside of objectives (dropout) is a function of the step too."""
        torch.manual_seed(mix(self.settings.seed, self.place.step, self.mesh.rank))
        rng = Rng(self.settings.seed, self.place.step, self.place.step / self.steps)
        try:
            return take_step(self.model, tasks, self.mesh, rng, self.micro, self._leaving(stop))
        except Interrupted:
            self._preempt(stop)

    def _update(self, step: Step, loss: float) -> tuple[float, float, bool]:
        """Clips, asks the watch, updates. Returns (gradient norm, learning-rate scale, was it rolled back)."""
        norm = float(self.optimizer.clip(self.settings.grad_clip, self.place.step / self.steps))
        rate = scale(self.place.step, self.steps, self.settings)
        verdict, lines = self.watch.check(
            self.place.step + 1, loss, norm, step.rows, rate * self.settings.learning_rate
        )
        for line in lines:
            self.say(line)
        self.place.cursors |= step.cursors
        self.place.loss = loss
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

    def _brake(self, step: Step, norm: float) -> None:
        """Says what the gauges show, and whether it is time to stop: the same on every process."""
        for line in self.brakes.check(self.place.step, self.place.loss, norm, step.gauge):
            self.say(line)

    def _roll_back(self, step: Step) -> bool:
        """Goes back to the newest checkpoint, past the rows that broke it; False where there is none."""
        newest = checkpoint.latest(self._checkpoints, self.say)
        if newest is None:
            return False
        self._load(newest)
        self.place.cursors |= step.cursors
        self.watch.broken, self.watch.spikes = [], 0  # where the checkpoint was saved among them
        self.meter.steps = self.place.step
        self.optimizer.zero()
        self.say(f"went back to step {self.place.step} and on with the data after the broken rows")
        return True

    def _tasks(self) -> list[Task]:
        return [
            Task(source.name, source.objective, source.stream.start(self.place.cursors[source.name]))
            for source in self.sources
        ]

    def _due(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks whose turn the next step is, as they count in it."""
        pairs = zip(self.sources, tasks, strict=True)
        weighed = [
            (task, source.turn.at(self.place.step, self.steps) * self.place.weight.get(source.name, 1.0))
            for source, task in pairs
        ]
        return [replace(task, weight=weight) for task, weight in weighed if weight > 0]

    def _balance(self, stop: StopFlag) -> None:
        """Sets the weight of the task with a ``ratio``, on the losses of a first step that is taken for this alone.

        So GRIT balances its two losses (Muennighoff et al. 2024, arXiv:2402.09906).
        """
        source = next((source for source in self.sources if source.turn.ratio is not None), None)
        if source is None or source.name in self.place.weight:
            return
        tasks = self._due(self._tasks())
        step = self._gradient(tasks, stop)
        self.optimizer.zero()
        mine = step.total([task for task in tasks if task.name == source.name])
        others = step.total([task for task in tasks if task.name != source.name])
        if not (0 < mine < math.inf and 0 < others < math.inf):
            what = f"the first losses, {mine:.4g} and {others:.4g}, have no ratio"
            raise Diverged(what, remedy=f"give the task {source.name} a weight instead")
        assert source.turn.ratio is not None
        self.place.weight[source.name] = weight = source.turn.ratio * others / mine
        self.say(
            f"{self.name}: the first step's loss of {source.name} is {mine / others:.3g} times the others'; "
            f"weight {weight:.4g} makes it {source.turn.ratio:g}"
        )

    def _check_turns(self) -> None:
        """Raises UsageProblem for a step that is no task's turn."""
        for step in range(self.steps):
            if not any(source.turn.at(step, self.steps) for source in self.sources):
                what = f"step {step + 1} of {self.steps} is no task's turn"
                raise UsageProblem(what, where=self.name, remedy="let the tasks' phase and every cover all steps")
        first = [source.turn.ratio for source in self.sources if source.turn.at(0, self.steps)]
        ratios = [source.turn.ratio for source in self.sources if source.turn.ratio is not None]
        if ratios and (len(ratios) > 1 or ratios[0] not in first or len(first) == 1):
            what = "a ratio compares one task of the first step with the others of it"
            raise UsageProblem(what, where=self.name, remedy="give the tasks a weight instead")

    def _check_reach(self) -> None:
        """Says beforehand where a learning rate is too small for bf16: masters move, and what is read does not."""
        if self.place.step or self.settings.optimizer != "adamw":
            return
        reach = self.settings.learning_rate * sum(scale(step, self.steps, self.settings) for step in range(self.steps))
        share = self.optimizer.stuck(reach)
        if share > STUCK:
            self.say(
                f"{self.name}: all steps together move a weight by about {reach:.1g}, which in bf16 leaves {share:.0%} "
                "of the weights as they are; raise learning_rate, train longer or a LoRA, or set precision: fp32"
            )

    def _leaving(self, stop: StopFlag) -> Callable[[], bool]:
        """Whether to leave a step midway. Several processes must agree on it, a message worth sending in slow steps."""
        if self.mesh.size == 1:
            return stop
        return (lambda: self.mesh.any(stop())) if self.slow else (lambda: False)

    def _agree(self, reading: Reading, asked: bool) -> tuple[Reading, bool]:
        """The energy of all processes, and whether any of them is asked to stop, in one message."""
        lasted = self.meter.recent[-1][1] if self.meter.recent else 0.0
        mine = {"energy": reading.energy_wh, "asked": float(asked), "seconds": lasted / self.mesh.size}
        summed = self.mesh.sum({name: torch.tensor(value, dtype=torch.float64) for name, value in mine.items()})
        self.slow = bool(summed["seconds"] > SLOW)
        return replace(reading, energy_wh=summed["energy"].item()), bool(summed["asked"])

    def _preempt(self, stop: StopFlag) -> NoReturn:
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
        meter = self.meter.state()
        joules = self.mesh.sum({"": torch.tensor(meter["joules"], dtype=torch.float64)})[""].item()
        state: dict[str, Any] = {
            **asdict(self.place),
            "watch": self.watch.state(),
            "brakes": self.brakes.state(),
            "meter": {**meter, "joules": joules},
            "threads": torch.get_num_threads(),
            "processes": self.mesh.size,
        }
        keep = self.settings.keep_checkpoints
        checkpoint.save(self._checkpoints, self.place.step, self.optimizer.tensors(), state, keep)

    def _restore(self) -> None:
        newest = checkpoint.latest(self._checkpoints, self.say)
        if newest is None:
            return
        state = self._load(newest)
        self.meter.restore({**state["meter"], "joules": state["meter"]["joules"] / self.mesh.size})
        if state["processes"] == self.mesh.size:
            torch.set_num_threads(state["threads"])  # sums depend on it: a resumed run equals the unbroken one
        self.say(f"{self.name}: resumed at step {self.place.step} of {self.steps}")

    def _load(self, path: Path) -> dict[str, Any]:
        state = checkpoint.load(path, self.optimizer.tensors())
        self.optimizer.publish()
        state.setdefault("weight", {})  # which the first checkpoints lack
        self.place = Place(**{kept.name: state[kept.name] for kept in fields(Place)})
        self.watch.restore(state["watch"])
        self.brakes.restore(state.get("brakes", Brakes().state()))  # which the first checkpoints lack, too
        return state

    # ---- what is shown -----------------------------------------------------------------------------------------

    def _metrics(self) -> Metrics:
        metrics = Metrics(self.folder / "metrics.jsonl" if self.mesh.main else Path(os.devnull))
        self._forget(metrics)
        return metrics

    def _forget(self, metrics: Metrics) -> None:
        """Drops the lines of steps that are yet to come, again."""
        if self.mesh.main:
            metrics.truncate_after(self.place.step)

    def _progress(self) -> Progress:
        return Progress(self.name, self.steps, quiet=not self.mesh.main)

    def _record(
        self, metrics: Metrics, progress: Progress, step: Step, norm: float, rate: float, reading: Reading
    ) -> None:
        if not self.mesh.main:
            return
        progress.update(self.place.step, self.place.loss, reading)
        if self.place.step % self.settings.log_every == 0 or self.over:
            metrics.write(
                self.place.step,
                loss=self.place.loss,
                grad_norm=norm,
                learning_rate=rate * self.settings.learning_rate,
                tokens=self.place.tokens,
                trained_tokens=self.place.trained,
                tokens_per_second=reading.tokens_per_second,
                seconds=reading.seconds,
                memory=reading.memory,
                energy_wh=reading.energy_wh,
                **({} if reading.share is None else {"share": reading.share}),
                **{f"loss/{name}/{term}": value for (name, term), value in step.loss.items() if len(step.loss) > 1},
                **{f"gauge/{name}/{term}": value for (name, term), value in step.gauge.items()},
            )
