"""How fast, how long yet, how much of this machine, how much memory, how much energy."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECENT = 32  # steps whose median is the speed: the first, slow ones (compilation) soon leave it
POWERCAP = Path("/sys/class/powercap")

# Cloud Carbon Footprint, methodology, "compute" and "memory": a fully used virtual CPU of an average
# server draws 3.5 W (AWS figure) and a gigabyte of memory 0.392 W.
WATTS_PER_BUSY_CPU = 3.5
WATTS_PER_GIGABYTE = 0.392


@dataclass(frozen=True)
class Reading:
    """What the meter says after a step; None is "not known"."""

    step: int
    seconds: float  # since the stage began, over all its runs
    tokens_per_second: float
    seconds_left: float | None
    share: float | None  # of the machine's measured peak
    memory: int  # bytes at the highest so far: of the accelerator where there is one
    energy_wh: float
    energy_source: str  # how the energy is known; begins with "estimate" or "measured"

    @property
    def estimated(self) -> bool:
        """Whether any part of the energy is an estimate."""
        return "estimate" in self.energy_source


class Power(Protocol):
    """Something that knows what the machine draws."""

    source: str

    def watts(self, seconds: float) -> float:
        """The mean power over the last ``seconds``, which is the time since the last call."""
        ...


class Estimate:
    """Power of this process on a machine without a readable meter: CPUs it keeps busy, and its memory.

    Idle power, the screen and the network are not in it.
    """

    source = f"estimate: {WATTS_PER_BUSY_CPU} W a busy CPU + {WATTS_PER_GIGABYTE} W a GB of memory"

    def __init__(self, process: psutil.Process | None = None):
        self.process = process or psutil.Process()
        self.last = self._busy()

    def watts(self, seconds: float) -> float:
        """Busy CPUs x 3.5 W + resident gigabytes x 0.392 W."""
        now = self._busy()
        busy, self.last = (now - self.last) / seconds, now
        return busy * WATTS_PER_BUSY_CPU + self.process.memory_info().rss / 1e9 * WATTS_PER_GIGABYTE

    def _busy(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


class Rapl:
    """The processor packages' own energy counters (Intel and AMD, Linux powercap), in microjoules."""

    source = "measured (RAPL, processor packages)"

    def __init__(self, packages: list[Path]):
        self.counters = [package / "energy_uj" for package in packages]
        self.ranges = [int((package / "max_energy_range_uj").read_text()) for package in packages]
        self.last = self._read()

    @staticmethod
    def packages(root: Path = POWERCAP) -> list[Path]:
        """The packages this user may read; none on many machines, where only root may."""
        found = [folder for folder in sorted(root.glob("*-rapl:*")) if folder.name.count(":") == 1]
        return found if all(os.access(folder / "energy_uj", os.R_OK) for folder in found) else []

    def watts(self, seconds: float) -> float:
        """What the counters rose by; a counter that wrapped goes on from zero."""
        now = self._read()
        used = sum((b - a) % (top + 1) for a, b, top in zip(self.last, now, self.ranges, strict=True))
        self.last = now
        return used / 1e6 / seconds

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self.counters]


class NvidiaSmi:
    """Board power of one GPU as ``nvidia-smi`` tells it; the call runs beside training, never in its way."""

    source = "measured (nvidia-smi, board)"

    def __init__(self, gpu: str, program: str):
        self.command = [program, f"--id={gpu}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        self.known = self._value(subprocess.run(self.command, capture_output=True, text=True).stdout)
        self.asked = self._ask()

    def watts(self, seconds: float) -> float:
        """The newest answer that has come; the next question is asked at once."""
        if self.asked.poll() is not None:
            answer = self._value(self.asked.communicate()[0])
            self.known = self.known if answer is None else answer
            self.asked = self._ask()
        return self.known or 0.0

    def _ask(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    @staticmethod
    def _value(answer: str) -> float | None:
        text = answer.strip()
        return float(text) if text.replace(".", "", 1).isdigit() else None  # "[N/A]" on boards without a sensor


class Total:
    """Several sources at once, their powers added."""

    def __init__(self, parts: list[Power], missing: str = ""):
        self.parts = parts
        self.source = " + ".join([part.source for part in parts]) + missing

    def watts(self, seconds: float) -> float:
        """The sum."""
        return sum(part.watts(seconds) for part in self.parts)


def power(device: torch.device) -> Power:
    """The best this machine can tell: measured where a meter can be read, else an estimate that says so."""
    packages = Rapl.packages()
    processor: Power = Rapl(packages) if packages else Estimate()
    if device.type == "cpu":
        return processor
    program = shutil.which("nvidia-smi") if device.type == "cuda" else None
    board = NvidiaSmi(f"GPU-{torch.cuda.get_device_properties(device).uuid}", program) if program else None
    if board is None or board.known is None:
        return Total([processor], missing=f"; the {device.type} device cannot be measured and is not counted")
    return Total([board, processor])


class Meter:
    """Reads the clock once a step. ``device`` is where the model computes.

    ``flops_per_token`` (see the function of that name) and ``peak`` (see ``measure_peak``) give the
    share of the machine's peak; without them it is None. Energy is the sum of power x time over the
    intervals between two looks at the power source (METHODS: Wh = sum of W h), one look every
    ``look_every`` seconds.
    """

    def __init__(
        self,
        total_steps: int | None,
        total_tokens: int | None,
        device: torch.device | str,
        clock: Callable[[], float] = time.monotonic,
        *,
        flops_per_token: float | None = None,
        peak: float | None = None,
        source: Power | None = None,
        look_every: float = 1.0,
    ):
        self.total_steps, self.total_tokens = total_steps, total_tokens
        self.device = torch.device(device)
        self.clock = clock
        self.flops_per_token, self.peak = flops_per_token, peak
        self.source = source or power(self.device)
        self.look_every = look_every
        self.memory = Memory(self.device)
        self.steps = self.tokens = 0
        self.seconds = self.joules = 0.0
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT)  # tokens, seconds
        self.before = self.looked = self.mark = clock()

    def step(self, tokens: int) -> Reading:
        """Counts a step of ``tokens`` tokens that began where the last one (or ``lap``) ended."""
        now = self.clock()
        self.steps += 1
        self.tokens += tokens
        self.recent.append((tokens, max(now - self.mark, 1e-9)))
        self._pass(now, look=now - self.looked >= self.look_every)
        return self._reading()

    def lap(self) -> None:
        """Says that what was done since the last step was not training: it counts as time and energy, not speed."""
        self._pass(self.clock(), look=False)

    def stop(self) -> Reading:
        """The closing figures, energy looked at once more."""
        self._pass(self.clock(), look=True)
        return self._reading()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON: the totals so far."""
        self._pass(self.clock(), look=True)
        return {"steps": self.steps, "tokens": self.tokens, "seconds": self.seconds, "joules": self.joules}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``; the time the run was away does not count."""
        self.steps, self.tokens = state["steps"], state["tokens"]
        self.seconds, self.joules = state["seconds"], state["joules"]
        self.recent.clear()
        self.before = self.looked = self.mark = self.clock()

    def _pass(self, now: float, look: bool) -> None:
        self.seconds += now - self.before
        self.before = self.mark = now
        if look and now > self.looked:
            self.joules += self.source.watts(now - self.looked) * (now - self.looked)
            self.looked = now
        self.memory.look()

    def _reading(self) -> Reading:
        speed = median(tokens / seconds for tokens, seconds in self.recent) if self.recent else 0.0
        work = self.flops_per_token * speed if self.flops_per_token else None
        return Reading(
            step=self.steps,
            seconds=self.seconds,
            tokens_per_second=speed,
            seconds_left=self._left(speed),
            share=work / self.peak if work is not None and self.peak else None,
            memory=self.memory.peak,
            energy_wh=self.joules / 3600,
            energy_source=self.source.source,
        )

    def _left(self, speed: float) -> float | None:
        """Until the first reached of the two lengths."""
        left = []
        if self.total_steps is not None and self.recent:
            left.append((self.total_steps - self.steps) * median(seconds for _, seconds in self.recent))
        if self.total_tokens is not None and speed > 0:
            left.append((self.total_tokens - self.tokens) / speed)
        return max(0.0, min(left)) if left else None


class Memory:
    """The most memory held since this was made: the accelerator's, or the process's on a CPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.process = psutil.Process()
        self.peak = 0
        self.before = _highest()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.look()

    def look(self) -> None:
        """The system keeps the peak of the process's whole life; it is this stage's once it has risen."""
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
            return
        highest = _highest()
        self.peak = highest if highest > self.before else max(self.peak, self.process.memory_info().rss)


def _highest() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def flops_per_token(net: PreTrainedModel, keys: float) -> float:
    """Floating-point operations one training step costs a token (METHODS section 12).

    6 for every weight in a matrix product and 12 x heads x head width x ``keys`` a layer, where ``keys``
    is the mean number of tokens a token attends to (T for a full row, T / 2 for a causal one). Of the
    experts of a mixture (one weight [experts, out, in]) those a token visits count. A frozen weight has
    no gradient of its own: 4 instead of 6; below the first trainable weight nothing flows back: 2, and a
    third of the attention. Recomputation is not counted, as in MFU.
    """
    body = net.config.get_text_config()
    fields = body.to_dict()
    head = fields.get("head_dim") or body.hidden_size // body.num_attention_heads  # GPT-2 has no head_dim
    experts = fields.get("num_experts_per_tok") or 1
    attention = 4 * body.num_attention_heads * head * keys
    weights, flows = 0.0, False
    for module in net.modules():
        for weight in module.parameters(recurse=False):
            flows = flows or weight.requires_grad
            if weight.dim() in (2, 3) and not isinstance(module, torch.nn.Embedding):
                visited = experts / len(weight) if weight.dim() == 3 else 1
                weights += weight.numel() * visited * ((6 if weight.requires_grad else 4) if flows else 2)
    backward = _flowing(net)
    return weights + attention * (3 * backward + body.num_hidden_layers - backward)


def _flowing(net: PreTrainedModel) -> int:
    """How many decoder layers (the members of the longest module list) a gradient reaches."""
    place = {id(weight): number for number, weight in enumerate(net.parameters())}
    first = min((place[id(weight)] for weight in net.parameters() if weight.requires_grad), default=len(place))
    lists = [module for module in net.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len, default=torch.nn.ModuleList())
    return sum(max(place[id(weight)] for weight in layer.parameters()) >= first for layer in layers)


@functools.cache
def measure_peak(device: torch.device | str, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of large square matrix products on this machine now: the best of about ``seconds`` of them."""
    place = torch.device(device)
    size = 1024 if place.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        for _ in range(2):  # the first product of a pair pays for warming up
            begin = time.perf_counter()
            torch.mm(left, right)
            if place.type != "cpu":
                torch.accelerator.synchronize(place)
            best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
