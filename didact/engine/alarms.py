"""What may go wrong while training, noticed from numbers alone: each alarm is a function and says a remedy.

Everything here is a pure function of the numbers seen so far, which are the same on every process and
after every resume; ``Watch.state`` is JSON and restores it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import Any

from didact.errors import DataProblem

WINDOW = 128  # steps a spike is measured against
SIGMA = 6.0
IN_A_ROW = 3  # steps that are not finite before going back
EXPLODED = 16  # spikes in a row: no longer a bad batch but a broken model
LARGEST = 1e100  # what a number is remembered as at most, so that squares stay finite
DEAD = 3  # steps in a row with a learning rate of zero


class Verdict(Enum):
    """What to do with the gradient just made."""

    OK = "ok"
    SKIP = "skip"  # leave the parameters as they are
    ROLLBACK = "rollback"  # go back to the last checkpoint
    STOP = "stop"  # a second time on the same road: give up


@dataclass(frozen=True)
class Spike:
    """A number far above its own recent past: 6 sigma over the last 128 steps, once half of them are known.

    Sigma is bounded from below, relative to the mean and absolutely, so that a run as smooth as glass does
    not call a breath of wind a storm.
    """

    name: str
    relative: float = 0.0
    absolute: float = 0.0

    def line(self, value: float, history: list[float]) -> str:
        """What is to be said of ``value``; empty when it is no spike."""
        if len(history) < WINDOW // 2:
            return ""
        mean, sigma = self._spread(history)
        if value <= mean + SIGMA * sigma:
            return ""
        return (
            f"{self.name} {value:.4g} is {(value - mean) / sigma:.0f} sigma above "
            f"the last {len(history)} steps ({mean:.4g})"
        )

    def remember(self, value: float, history: list[float]) -> None:
        """Keeps a spike as its threshold: one wild step must not blind the alarm for the next 128, but a
        lasting change of level (each step widens sigma by an eighth) becomes the new normal."""
        value = min(max(value, -LARGEST), LARGEST)
        if len(history) >= WINDOW // 2:
            mean, sigma = self._spread(history)
            value = min(value, mean + SIGMA * sigma)
        history.append(value)
        del history[:-WINDOW]

    def _spread(self, history: list[float]) -> tuple[float, float]:
        mean = math.fsum(history) / len(history)
        sigma = math.sqrt(math.fsum((value - mean) * (value - mean) for value in history) / len(history))
        return mean, max(sigma, self.relative * abs(mean), self.absolute)


LOSS = Spike("loss", relative=0.01, absolute=1e-6)
# Gradient norms are positive and skewed: their logarithm is what is close to normal.
LOG_NORM = Spike("log gradient norm", absolute=0.05)


class Watch:
    """Looks at every step's numbers before the update.

    ``patience`` is for how many steps the mean loss may fail to fall before it is said.
    """

    def __init__(self, patience: int = 512):
        self.patience = patience
        self.losses: list[float] = []  # of the last WINDOW finite steps
        self.norms: list[float] = []  # logarithms
        self.broken: list[list[str]] = []  # ids of the batches of the current run of non-finite steps
        self.spikes = self.dead = self.skipped = 0
        self.rolled_back = False
        self.block: list[float] = []  # losses of the current quarter of the patience
        self.best: float | None = None  # lowest mean of such a quarter
        self.stale = 0  # quarters since then

    def check(
        self,
        step: int,
        loss: float,
        grad_norm: float,
        ids: Sequence[object] = (),
        learning_rate: float | None = None,
    ) -> tuple[Verdict, list[str]]:
        """The verdict on a step, and the lines to say. ``ids`` name the batch's rows or documents."""
        place = f"step {step}{_named(ids)}"
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return self._nonfinite(place, loss, grad_norm, ids)
        self.broken = []
        log_norm = math.log(grad_norm + 1e-30)
        spike = LOSS.line(loss, self.losses) or LOG_NORM.line(log_norm, self.norms)
        LOSS.remember(loss, self.losses)
        LOG_NORM.remember(log_norm, self.norms)
        if spike:
            return self._spiked(place, spike)
        self.spikes = 0
        return Verdict.OK, [line for line in (self._dead_rate(learning_rate), self._flat(step, loss)) if line]

    def state(self) -> dict[str, Any]:
        """Everything remembered, as JSON."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "broken": [list(ids) for ids in self.broken],
            "spikes": self.spikes,
            "dead": self.dead,
            "skipped": self.skipped,
            "rolled_back": self.rolled_back,
            "block": list(self.block),
            "best": self.best,
            "stale": self.stale,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Remembers ``state`` instead; only that this process has gone back once already is not forgotten."""
        self.losses, self.norms, self.block = list(state["losses"]), list(state["norms"]), list(state["block"])
        self.broken = [list(ids) for ids in state["broken"]]
        self.spikes, self.dead, self.skipped = state["spikes"], state["dead"], state["skipped"]
        self.best, self.stale = state["best"], state["stale"]
        self.rolled_back = self.rolled_back or state["rolled_back"]

    def _nonfinite(self, place: str, loss: float, grad_norm: float, ids: Sequence[object]) -> tuple[Verdict, list[str]]:
        self.broken.append([str(one) for one in ids])
        self.skipped += 1
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {grad_norm}"
        if len(self.broken) < IN_A_ROW:
            remedy = "the step is skipped; if it goes on, lower learning_rate or set precision: fp32"
            return Verdict.SKIP, [f"{place}: {what}; {remedy}"]
        rows = _named([one for batch in self.broken for one in batch])
        return self._give_way(f"{place}: {what}, {IN_A_ROW} steps in a row{rows}")

    def _spiked(self, place: str, spike: str) -> tuple[Verdict, list[str]]:
        self.spikes += 1
        self.skipped += 1
        if self.spikes >= EXPLODED:
            return self._give_way(f"{place}: {spike}, {EXPLODED} steps in a row")
        remedy = "the step is skipped; if it goes on, lower learning_rate or look at these rows with didact inspect"
        return Verdict.SKIP, [f"{place}: {spike}; {remedy}"]

    def _give_way(self, what: str) -> tuple[Verdict, list[str]]:
        """The first time back to the last checkpoint, the second time no further."""
        self.broken, self.spikes = [], 0
        if self.rolled_back:
            return Verdict.STOP, [f"{what}, again after going back; lower learning_rate or raise warmup_ratio"]
        self.rolled_back = True
        return Verdict.ROLLBACK, [f"{what}; going back to the last checkpoint"]

    def _dead_rate(self, learning_rate: float | None) -> str:
        self.dead = self.dead + 1 if learning_rate == 0 else 0
        if self.dead != DEAD:
            return ""
        return f"the learning rate has been 0 for {DEAD} steps: nothing is learned; look at schedule and warmup_ratio"

    def _flat(self, step: int, loss: float) -> str:
        """Means over quarters of the patience, so that one lucky step is no progress and one bad one no alarm."""
        self.block.append(loss)
        if len(self.block) < max(1, self.patience // 4):
            return ""
        mean, self.block = fmean(self.block), []
        if self.best is None or mean < self.best:
            self.best, self.stale = mean, 0
            return ""
        self.stale += 1
        if self.stale % 4:
            return ""
        steps = self.stale * max(1, self.patience // 4)
        return (
            f"step {step}: the mean loss has not fallen below {self.best:.4f} for {steps} steps; "
            "change learning_rate, or stop here: more steps may only memorise"
        )


def require_trained(trained: int, read: int, where: str) -> None:
    """Raises DataProblem when not one of ``read`` tokens is to be predicted: a loss of 0.0 that teaches nothing."""
    if trained == 0:
        raise DataProblem(
            f"not one of the {read} tokens read is trained",
            where=where,
            remedy="look at the colours of didact inspect: is there an assistant turn, and does it fit the context?",
        )


def cut_documents(cut: int, documents: int, context: int) -> str:
    """A line about documents that do not end where their author ended them; empty when there is none."""
    if cut == 0:
        return ""
    share = cut / max(documents, 1)
    return (
        f"{cut} of {documents} documents ({share:.1%}) are longer than the context of {context} tokens and are cut "
        "in the middle; raise context, or set overlong: drop to leave them out"
    )


def _named(ids: Sequence[object]) -> str:
    """A few ids in brackets."""
    if not ids:
        return ""
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return f" (rows {', '.join(map(str, ids[:8]))}{more})"
