"""Kills a process, or fails its disk, at every file event of a save: the harness of test_checkpoint_chaos.

An event is one call of a function in ``os`` that changes the disk, by anybody (pathlib and shutil call these
too). The process dies by SIGKILL before the call, after it, or, for a write, halfway. ``count`` proves that
no change of the disk escapes: Python's own audit events must tell the same story.

Run as a program it is a server: it imports torch once, then forks one child a kill point, so that a thousand
kills take seconds. Every child starts without threads, which makes the fork safe.
"""

import errno
import itertools
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

EVENTS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate", "ftruncate")
AUDITED = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
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


def sharded(step: int, wanted: bool = True) -> dict[str, torch.Tensor]:
    """The same, the first two spread over all processes."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    whole = tensors(step, wanted)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ("model.weight", "model.bias"):
        whole[name] = distribute_tensor(whole[name], mesh, [Shard(0)])
    return whole


def save(root: Path, step: int, make: Callable = tensors) -> Path:
    """Saves the checkpoint of a step."""
    from didact.engine import checkpoint

    state = {"cursor": step * 10, "loss": step / 3}
    return checkpoint.save(root, step, make(step), state, KEEP, {"tokenizer.json": b"{}"})


def check(root: Path, allowed: tuple[int | None, ...]) -> int | None:
    """The step of the checkpoint that ``latest`` gives, all its contents compared."""
    from didact.engine import checkpoint

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


def together(root: Path, step: int, size: int, act: dict[int, Counter]) -> list[int]:
    """A save by ``size`` processes (gloo), some of whose events go through ``act``; their exit statuses.

    Where one dies, the others are ended as the supervisor would.
    """
    store = root.parent / f"store-{os.getpid()}"
    store.unlink(missing_ok=True)

    def work(rank: int) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        with events(act.get(rank, Counter())):
            save(root, step, sharded)
        dist.barrier()

    children = [fork(lambda rank=rank: work(rank)) for rank in range(size)]
    first, status = os.wait()
    codes = {first: os.waitstatus_to_exitcode(status)}
    for child in children:
        if child not in codes:
            if codes[first] != 0:
                os.kill(child, signal.SIGKILL)
            codes[child] = finish(child)
    return [codes[child] for child in children]


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


def one(folder: Path, scenario: str, at: int, when: str) -> str:
    """One kill of one process: "killed", "done" (there was no such event), or what went wrong."""
    before, step, allowed = SCENARIOS[scenario]
    root = folder / f"{scenario}-{at}-{when}" / "root"
    prepared(root, before, dirty=True)

    def work() -> None:
        with events(Killer(at, when)):
            save(root, step)

    code = finish(fork(work))
    if code not in (0, -signal.SIGKILL):
        return f"the save itself failed with {code}"
    return after(root, allowed if code else (step,)) or ("killed" if code else "done")


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


def two(folder: Path, rank: int, at: int) -> str:
    """One kill of one of two processes."""
    root = folder / f"two-{rank}-{at}" / "root"
    prepared(root, (1, 2), dirty=True)
    codes = together(root, 3, 2, {rank: Killer(at, "before")})
    if codes != [0, 0] and codes[rank] != -signal.SIGKILL:
        return f"exit statuses {codes}"
    return after(root, (3,) if codes == [0, 0] else (2, 3)) or ("done" if codes == [0, 0] else "killed")


def count(folder: Path, scenario: str) -> list[str]:
    """The names of all events of a save in a scenario; audit events must tell of the same ones."""
    root = folder / f"count-{scenario}" / "root"
    before, step, _ = SCENARIOS[scenario]
    prepared(root, before, dirty=True)
    heard: list[str] = []

    def hear(name: str, arguments: tuple) -> None:
        if name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            heard.append("open")
        elif name in AUDITED:
            heard.append({"os.remove": "unlink"}.get(name, name.removeprefix("os.")))

    def work() -> None:
        counter = Counter()
        sys.addaudithook(hear)
        with events(counter):
            save(root, step)
        seen = [name for name, _ in counter.seen]
        told = list(heard)  # the next line is heard too
        assert [name for name in seen if name not in ("write", "fsync")] == told, (seen, told)
        (root.parent / "events").write_text(" ".join(seen))

    assert finish(fork(work)) == 0
    return (root.parent / "events").read_text().split()


def at_random(folder: Path, kills: int, seed: int) -> Iterator[tuple[str, str]]:
    """Kills a process that saves without pause, at random moments; no save it had told of may be lost."""
    root, draw, told = folder / "random" / "root", random.Random(seed), 0
    for number in range(kills):
        reader, writer = os.pipe()

        def work(writer: int = writer, begin: int = told + 1) -> None:
            for step in range(begin, begin + 10_000):
                save(root, step)
                os.write(writer, step.to_bytes(8, "little"))

        child = fork(work)
        os.close(writer)
        time.sleep(draw.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        code = finish(child)
        with os.fdopen(reader, "rb") as pipe:
            told = max([told, *(number for (number,) in struct.iter_unpack("<Q", pipe.read()))])
        allowed = tuple(step for step in (told or None, told + 1) if step)
        ok = code == -signal.SIGKILL and finish(fork(lambda allowed=allowed: check(root, allowed or (None,)))) == 0
        yield f"kill {number} after step {told}", "killed" if ok else f"lost, or exit {code}"


def fsdp(root: Path, rank: int) -> dict[str, torch.Tensor]:
    """One AdamW step of a small FSDP2 model, saved; returns all its tensors, whole."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    from didact.engine import checkpoint

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))
    fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 5) + rank).sum().backward()
    optimizer.step()
    held: dict[str, torch.Tensor] = {}
    for name, parameter in net.named_parameters():
        held[f"model.{name}"] = parameter
        held |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    checkpoint.save(root, 50, held, {}, KEEP)
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach() for name, t in held.items()}


def sized(root: Path, size: int, work: Callable[[int], None]) -> None:
    """Runs ``work(rank)`` in ``size`` processes joined by gloo."""
    store = root.parent / f"store-{size}"
    store.unlink(missing_ok=True)

    def joined(rank: int) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        work(rank)
        dist.barrier()

    codes = [finish(child) for child in [fork(lambda rank=rank: joined(rank)) for rank in range(size)]]
    assert codes == [0] * size, codes


def worlds(folder: Path) -> Iterator[tuple[str, str]]:
    """Saves with one number of processes, loads and saves with the next: 1 -> 2 -> 4 -> 2 -> 1."""
    from didact.engine import checkpoint

    root = folder / "worlds" / "root"
    prepared(root, (1,), dirty=False)

    def step(number: int, background: bool) -> None:
        path = checkpoint.latest(root, print)
        held = sharded(0, wanted=False)
        assert checkpoint.load(path, held)["step"] == number - 1
        for name, tensor in sharded(number - 1).items():
            whole, loaded = (t.full_tensor() if name.startswith("model") else t for t in (tensor, held[name]))
            assert torch.equal(whole, loaded), name
        if background:
            saver = checkpoint.Saver(root, KEEP)
            saver.start(number, sharded(number), {"cursor": number * 10, "loss": number / 3})
            saver.wait()
        else:
            save(root, number, sharded)

    for number, size in enumerate((2, 4, 2), start=2):
        sized(root, size, lambda rank, number=number: step(number, background=number == 3))
        yield f"to {size} processes", "done"
    yield "to 1 process", "done" if check(root, (4,)) == 4 else "lost"

    def trained(rank: int) -> None:
        whole = fsdp(root, rank)
        if rank == 0:
            from safetensors.torch import save_file

            save_file(whole, root.parent / "whole.safetensors")

    sized(root, 2, trained)
    from safetensors.torch import load_file

    whole = load_file(root.parent / "whole.safetensors")
    held = {name: torch.full_like(tensor, -1) for name, tensor in whole.items()}
    checkpoint.load(root / "step-00000050", held)
    yield "FSDP2 with AdamW, 2 to 1", "done" if all(torch.equal(held[name], whole[name]) for name in whole) else "lost"


def serve(folder: Path, kind: str) -> Iterator[tuple[str, str]]:
    """Every kill point of a kind, one after another, with its outcome."""
    if kind == "two":
        for rank in (0, 1):
            for at in itertools.count():
                outcome = two(folder, rank, at)
                yield f"rank {rank} event {at}", outcome
                if outcome != "killed":
                    break
    elif kind == "worlds":
        yield from worlds(folder)
    elif kind.startswith("random"):
        yield from at_random(folder, int(kind.removeprefix("random")), seed=0)
    else:
        names = count(folder, kind)
        for at, name in enumerate(names):
            for when in ("before", "halfway", "after") if name == "write" else ("before", "after"):
                yield f"{kind} event {at} {name} {when}", one(folder, kind, at, when)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(list(serve(Path(sys.argv[1]), sys.argv[2]))))
