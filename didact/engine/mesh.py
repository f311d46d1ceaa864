"""Processes and how a model is spread over them: the only file that knows torch.distributed's FSDP2."""

import atexit
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from didact.errors import ResourceProblem

Key = TypeVar("Key")
Item = TypeVar("Item")
SETTLE = 0.2  # seconds
WAIT = timedelta(hours=12)  # the others wait while the first downloads or tokenizes; a death is noticed at once


def pick_device(wanted: str) -> torch.device:
    """The device a recipe asks for; ``auto`` takes cuda, then mps, then cpu. Raises ResourceProblem."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = next(kind for kind in ("cuda", "mps", "cpu") if have[kind]) if wanted == "auto" else wanted
    if not have.get(name, False):
        raise ResourceProblem(f"device {wanted!r} is not available here", remedy="set device: auto")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(name)


@dataclass(frozen=True)
class Mesh:
    """One process's place among ``size`` equals. A single process needs no process group."""

    device: torch.device
    rank: int = 0
    size: int = 1
    ranks: DeviceMesh | None = None

    @property
    def main(self) -> bool:
        """Whether this process is the one that talks and writes."""
        return self.rank == 0

    def sum(self, numbers: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """The sum over processes of each scalar, in float64, in one message."""
        packed = torch.stack([number.detach().double().cpu() for number in numbers.values()])
        if self.size > 1:
            packed = packed.to(self.device)
            dist.all_reduce(packed)
            packed = packed.cpu()
        return dict(zip(numbers, packed, strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some process."""
        return bool(self.sum({"": torch.tensor(float(flag))})[""])

    def gather(self, numbers: Sequence[int]) -> list[int]:
        """Every process's numbers, as many of each, the first of all before the second of any."""
        mine = torch.tensor(numbers, dtype=torch.int64)
        if self.size == 1 or not len(mine):
            return mine.tolist()
        mine = mine.to(self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone, dim=1).flatten().tolist()

    def shared(self, mine: Item) -> list[Item]:
        """Every process's ``mine``, by rank."""
        everyone: list[Any] = [mine]
        if self.size > 1:
            everyone = [None] * self.size
            dist.all_gather_object(everyone, mine)
        return everyone

    def barrier(self) -> None:
        """Waits for every process."""
        if self.size > 1:
            dist.barrier()

    def gathered(self, net: nn.Module) -> dict[str, Tensor]:
        """The whole state of a sharded network, on the CPU of every process."""
        return {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
            for name, value in net.state_dict().items()
        }

    def everyone(self, rows: Tensor) -> Tensor:
        """The rows [N, ...] of every process, [size * N, ...], this one's first; gradients go back to their owners."""
        return rows if self.size == 1 else Everyone.apply(rows, self.rank, self.size)

    def shard(self, model: nn.Module, layers: nn.ModuleList, dtype: torch.dtype) -> None:
        """Shards a model's parameters over the processes, layer by layer (FSDP2).

        Parameters stay fp32 and are gathered in ``dtype``; gradients are averaged in fp32, which the step undoes
        by multiplying with ``size``.
        """
        if self.size == 1:
            return
        # Inputs are token ids, and activations take the embeddings' type. Casting inputs would rebuild every Batch as a
        # plain dict, and every Sight anew for each layer.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=self.ranks, mp_policy=policy)
        fully_shard(model, mesh=self.ranks, mp_policy=policy)
        for method in ("hidden", "head"):
            register_fsdp_forward_method(model, method)

    def reshard(self, model: nn.Module) -> None:
        """Lets go of what a forward without a backward leaves whole; until then these parameters are no shards."""
        if isinstance(model, FSDPModule):
            model.reshard()


def join(wanted: str) -> Mesh:
    """This process's mesh: alone, or what torchrun's environment says."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return Mesh(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
        atexit.register(_settle)
    return Mesh(device, dist.get_rank(), size, init_device_mesh(device.type, (size,)))


def _settle() -> None:
    """Waits until gloo's threads have let go of the last message's tensors.

    One that still needs Python's lock for it when Python is torn down aborts the process (4 of 30 exits, when
    measured): what had ended well, or with a code of its own, would seem to have been killed.
    """
    time.sleep(SETTLE)


class Everyone(torch.autograd.Function):
    """Rows of all processes, rotated so that one's own come first; backward adds what all of them ask of a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        """rows [N, ...] -> [size * N, ...]."""
        ctx.rank, ctx.size = rank, size
        everyone = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(everyone, rows.contiguous())
        return torch.cat([*everyone[rank:], *everyone[:rank]])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        """The sum over processes of the gradients for this one's rows."""
        parts = grad_outputs[0].chunk(ctx.size)
        straight = torch.stack([*parts[ctx.size - ctx.rank :], *parts[: ctx.size - ctx.rank]])  # by rank
        dist.all_reduce(straight)
        return straight[ctx.rank], None, None
