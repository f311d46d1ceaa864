"""Kills a process, or fails its disk, at every file event of a save.

An event is one call of a function in ``os`` that changes the disk, by anybody (pathlib and shutil call these
too). The process dies by SIGKILL before the call, after it, or, for a write, halfway.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from didact.engine import checkpoint

EVENTS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate", "ftruncate")
KEEP = 2


@contextmanager
def events(act: Callable[[str, Callable, tuple], object]) -> Iterator[None]:
    """Sends every event through ``act(name, real, arguments)``."""

    def sent(name: str, real: Callable) -> Callable:
        def call(*arguments, **named):
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*arguments, **named)
            return act(name, lambda *given: real(*given, **named), arguments)

        return call

    with patch.multiple(os, **{name: sent(name, getattr(os, name)) for name in EVENTS}):
        yield


class Counter:
    """Counts events and does nothing else."""

    def __init__(self):
        self.seen: list[tuple[str, tuple]] = []

    def __call__(self, name: str, real: Callable, arguments: tuple) -> object:
        self.seen.append((name, arguments))
        return real(*arguments)


class Killer(Counter):
    """Kills this process at event ``at``: before it, halfway through a write, or after it."""

    def __init__(self, at: int, when: str):
        super().__init__()
        self.at, self.when = at, when

    def __call__(self, name: str, real: Callable, arguments: tuple) -> object:
        here = len(self.seen) == self.at
        if here and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self.when == "halfway" and name == "write":
            real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return super().__call__(name, real, arguments)
        finally:
            if here and self.when == "after":
                os.kill(os.getpid(), signal.SIGKILL)


class Failer(Counter):
    """Event ``at`` fails once with an error number."""

    def __init__(self, at: int, number: int):
        super().__init__()
        self.at, self.number = at, number

    def __call__(self, name: str, real: Callable, arguments: tuple) -> object:
        if len(self.seen) == self.at:
            self.seen.append((name, arguments))
            raise OSError(self.number, os.strerror(self.number), str(arguments[0]))
        return super().__call__(name, real, arguments)


class Full(Counter):
    """A disk with room for ``room`` more bytes: short writes, then ENOSPC."""

    def __init__(self, room: int):
        super().__init__()
        self.room = room

    def __call__(self, name: str, real: Callable, arguments: tuple) -> object:
        if name != "write":
            return super().__call__(name, real, arguments)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = super().__call__(name, real, (arguments[0], arguments[1][: self.room]))
        self.room -= done
        return done


def tensors(step: int, wanted: bool = True) -> dict[str, torch.Tensor]:
    """What the checkpoint of a step holds; ``wanted=False`` gives the same shapes to load into."""
    whole = {
        "model.weight": torch.arange(35.0).reshape(7, 5) + step,
        "model.bias": torch.full((3,), step + 0.1, dtype=torch.bfloat16),
        "optimizer.weight.step": torch.tensor(float(step)),
    }
    return whole if wanted else {name: torch.zeros_like(tensor) for name, tensor in whole.items()}


def save(root: Path, step: int, make: Callable = tensors) -> Path:
    """Saves the checkpoint of a step."""
    state = {"cursor": step * 10, "loss": step / 3}
    return checkpoint.save(root, step, make(step), state, KEEP, {"tokenizer.json": b"{}"})


def check(root: Path, allowed: tuple[int | None, ...]) -> int | None:
    """The step of the checkpoint that ``latest`` gives, all its contents compared."""
    path = checkpoint.latest(root, lambda line: None)
    if path is None:
        assert None in allowed, f"everything lost, expected one of {allowed}"
        return None
    held = tensors(0, wanted=False)
    state = checkpoint.load(path, held)
    assert state["step"] in allowed, f"step {state['step']}, expected one of {allowed}"
    assert state == {"step": state["step"], "cursor": state["step"] * 10, "loss": state["step"] / 3}
    for name, tensor in tensors(state["step"]).items():
        assert torch.equal(held[name], tensor), name
    return state["step"]


def fork(work: Callable[[], object]) -> int:
    """Runs ``work`` in a child and returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def finish(child: int) -> int:
    """A child's exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


SCENARIOS = {  # what is there before -> the step saved, and what may be found after a kill
    "first": ((), 1, (None, 1)),
    "usual": ((1, 2), 3, (2, 3)),
    "same": ((1, 2), 2, (2,)),
    "back": ((1, 3), 2, (3, 2)),
}


def prepared(root: Path, before: tuple[int, ...], dirty: bool) -> None:
    """A root with checkpoints, and the leavings of an earlier kill."""
    root.mkdir(parents=True)
    for step in before:
        save(root, step)
    if dirty:
        for name in (".saving-step-00000009", ".removing-step-00000001"):
            (root / name).mkdir()
            (root / name / "state.json").write_bytes(b"{")


def after(root: Path, allowed: tuple[int | None, ...]) -> str:
    """Whether the next process finds what it may, and saves again leaving nothing behind; empty when all is well."""

    def work() -> None:
        check(root, allowed)
        save(root, 7)
        check(root, (7,))
        left = sorted(path.name for path in root.iterdir())
        assert "step-00000007" in left, left
        assert all(name.startswith("step-") for name in left), left
        assert len(left) <= KEEP, left

    return "the next process failed" if finish(fork(work)) else ""
