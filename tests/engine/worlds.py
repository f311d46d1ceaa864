"""Saves and loads by several processes, joined by gloo: killed, refused, and of changing number."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from didact.engine import checkpoint
from didact.errors import ResourceProblem
from tests.engine.chaos import (
    KEEP,
    Counter,
    Full,
    Killer,
    after,
    check,
    events,
    finish,
    fork,
    prepared,
    save,
    tensors,
)


def sharded(step: int, wanted: bool = True) -> dict[str, torch.Tensor]:
    """The tensors of a step, the first two spread over all processes."""
    whole = tensors(step, wanted)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ("model.weight", "model.bias"):
        whole[name] = distribute_tensor(whole[name], mesh, [Shard(0)])
    return whole


def together(root: Path, step: int, size: int, act: dict[int, Counter]) -> list[int]:
    """A save by ``size`` processes (gloo), some of whose events go through ``act``; their exit statuses.

    Where one dies, the others are ended as the supervisor would.
    """
    store = root.parent / f"store-{os.getpid()}"
    store.unlink(missing_ok=True)

    def work(rank: int) -> None:
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


def two(folder: Path, rank: int, at: int) -> str:
    """One kill of one of two processes."""
    root = folder / f"two-{rank}-{at}" / "root"
    prepared(root, (1, 2), dirty=True)
    codes = together(root, 3, 2, {rank: Killer(at, "before")})
    if codes != [0, 0] and codes[rank] != -signal.SIGKILL:
        return f"exit statuses {codes}"
    return after(root, (3,) if codes == [0, 0] else (2, 3)) or ("done" if codes == [0, 0] else "killed")


def fsdp(root: Path, rank: int) -> dict[str, torch.Tensor]:
    """One AdamW step of a small FSDP2 model, saved; returns all its tensors, whole."""
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
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        work(rank)
        dist.barrier()

    codes = [finish(child) for child in [fork(lambda rank=rank: joined(rank)) for rank in range(size)]]
    assert codes == [0] * size, codes


def refused(root: Path, act: Counter) -> None:
    """A save that must end in one line in every process, whoever has the sick disk."""
    try:
        with events(act):
            save(root, 5, sharded)
    except ResourceProblem as problem:
        line = str(problem)
    else:
        line = "no process may think that it has saved"
    assert "No space left on device; free space" in line, line


def worlds(folder: Path) -> Iterator[tuple[str, str]]:
    """Saves with one number of processes, loads and saves with the next: 1 -> 2 -> 4 -> 2 -> 1."""
    root = folder / "worlds" / "root"
    prepared(root, (1,), dirty=False)

    def step(number: int) -> None:
        path = checkpoint.latest(root, print)
        held = sharded(0, wanted=False)
        assert checkpoint.load(path, held)["step"] == number - 1
        for name, tensor in sharded(number - 1).items():
            whole, loaded = (t.full_tensor() if name.startswith("model") else t for t in (tensor, held[name]))
            assert torch.equal(whole, loaded), name
        save(root, number, sharded)

    for number, size in enumerate((2, 4, 2), start=2):
        sized(root, size, lambda rank, number=number: step(number))
        yield f"to {size} processes", "done"
    yield "to 1 process", "done" if check(root, (4,)) == 4 else "lost"

    for sick, name in ((0, "ENOSPC on the first"), (1, "ENOSPC on the second")):
        sized(root, 2, lambda rank, sick=sick: refused(root, Full(100) if rank == sick else Counter()))
        left = sorted(path.name for path in root.iterdir())
        yield name, "done" if check(root, (4,)) == 4 and left == ["step-00000003", "step-00000004"] else f"left {left}"

    def trained(rank: int) -> None:
        whole = fsdp(root, rank)
        if rank == 0:
            save_file(whole, root.parent / "whole.safetensors")

    sized(root, 2, trained)
    whole = load_file(root.parent / "whole.safetensors")
    held = {name: torch.full_like(tensor, -1) for name, tensor in whole.items()}
    checkpoint.load(root / "step-00000050", held)
    yield "FSDP2 with AdamW, 2 to 1", "done" if all(torch.equal(held[name], whole[name]) for name in whole) else "lost"
