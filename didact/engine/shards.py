"""Tensors of any number of processes, in safetensors files that any other number of processes can read.

Each process writes what it holds into one file. The header says where in the whole tensor a piece belongs, in the
form torch.distributed.checkpoint's HuggingFaceStorageReader reads too (``DCP_SHARDING_INFO``); a plain tensor
is one piece. We write the format ourselves: torch's writer needs twice the file's size in memory and 2.3 times as
long, cannot hash what it writes, and hides the operating system's error number. Nothing here can hold pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from didact.engine import durable
from didact.errors import DataProblem

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_SHARDING = "DCP_SHARDING_INFO"


@dataclass(frozen=True)
class Shard:
    """One process's piece of a tensor: ``local`` starts at ``offset`` of a whole of ``shape``."""

    name: str
    local: Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    written: bool  # by this process: of equal copies exactly one is

    @property
    def whole_bytes(self) -> int:
        """Bytes of the whole tensor, over all processes."""
        return prod(self.shape) * self.local.element_size()


def initialised() -> bool:
    """Whether there are other processes to talk to."""
    return dist.is_available() and dist.is_initialized()


def shards(tensors: Mapping[str, Tensor]) -> list[Shard]:
    """This process's pieces. A plain tensor must be equal in all processes; the first one writes it.

    Raises DataProblem for a type that safetensors files do not hold.
    """
    found = [_shard(name, tensor) for name, tensor in tensors.items()]
    for shard in found:
        if shard.local.dtype not in DTYPES:
            raise DataProblem(f"tensors of {shard.local.dtype} cannot be saved", where=shard.name)
    return sorted(found, key=lambda shard: (-shard.local.element_size(), shard.name))  # keeps every tensor aligned


def _shard(name: str, tensor: Tensor) -> Shard:
    shape = tuple(tensor.shape)
    if initialised():
        from torch.distributed.tensor import DTensor

        if isinstance(tensor, DTensor):
            (chunk,) = tensor.__create_chunk_list__()
            local = tensor.to_local().detach()
            return Shard(name, local, tuple(chunk.offsets), shape, _writes(tensor, local))
    return Shard(name, tensor.detach(), (0,) * len(shape), shape, not initialised() or dist.get_rank() == 0)


def _writes(tensor: Any, local: Tensor) -> bool:
    """Whether this process writes its piece of a DTensor: the first of equal copies, and no empty piece of a whole."""
    at = tensor.device_mesh.get_coordinate()
    if at is None:
        return False
    if tensor.numel() == 0:
        return not any(at)
    first = all(index == 0 for index, how in zip(at, tensor.placements, strict=True) if how.is_replicate())
    return first and local.numel() > 0


def pieces(found: Sequence[Shard]) -> Iterator[bytes | memoryview]:
    """The bytes of the safetensors file with those of ``found`` that this process writes, one tensor at a time."""
    mine = [shard for shard in found if shard.written]
    yield _header(mine)
    for shard in mine:
        if shard.local.numel():
            flat = shard.local.cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def _header(mine: Sequence[Shard]) -> bytes:
    """https://huggingface.co/docs/safetensors: eight bytes of length, then JSON padded to a multiple of eight."""
    where = {shard.name: {"saved_offsets": shard.offset, "shape": shard.shape} for shard in mine}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "DCP_VERSION": "1.0", _SHARDING: json.dumps(where)}}
    end = 0
    for shard in mine:
        begin, end = end, end + shard.local.nbytes
        dtype, shape = DTYPES[shard.local.dtype], tuple(shard.local.shape)
        header[shard.name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


@dataclass
class _Piece:
    file: Any  # an open safetensors file
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass
class _Saved:
    dtype: str
    shape: tuple[int, ...]
    pieces: list[_Piece] = field(default_factory=list)


def load_into(folder: Path, files: Iterable[str], tensors: Mapping[str, Tensor]) -> None:
    """Fills tensors (plain or DTensor) from the named safetensors files, bit for bit.

    Names, shapes and types must agree exactly; that is checked before the first tensor is touched.
    Raises DataProblem naming the first disagreement.
    """
    targets = sorted(shards(tensors), key=lambda shard: shard.name)
    try:
        with ExitStack() as stack:
            opened = {name: stack.enter_context(safe_open(folder / name, framework="pt")) for name in files}
            saved = _index(folder, opened)
            _check(folder, targets, saved)
            for target in targets:
                for piece in saved[target.name].pieces:
                    _copy(target, piece)
    except SafetensorError as error:
        raise durable.damaged(folder, f"not safetensors: {error}") from error


def _index(folder: Path, opened: Mapping[str, Any]) -> dict[str, _Saved]:
    saved: dict[str, _Saved] = {}
    for file_name, file in opened.items():
        try:
            where = json.loads(file.metadata()[_SHARDING])
            for name in file.keys():  # noqa: SIM118 - an open file is no dict
                view = file.get_slice(name)
                piece = _Piece(file, tuple(where[name]["saved_offsets"]), tuple(view.get_shape()))
                entry = _Saved(view.get_dtype(), tuple(where[name]["shape"]))
                if not _inside(piece, entry.shape):
                    raise ValueError(name)
                saved.setdefault(name, entry).pieces.append(piece)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise durable.damaged(folder, f"{file_name} does not say where its tensors belong") from error
    return saved


def _inside(piece: _Piece, shape: tuple[int, ...]) -> bool:
    sizes = zip(piece.offset, piece.shape, shape, strict=True)
    return all(offset >= 0 and offset + size <= whole for offset, size, whole in sizes)


def _check(folder: Path, targets: Sequence[Shard], saved: Mapping[str, _Saved]) -> None:
    for name in sorted({target.name for target in targets} ^ set(saved)):
        what = f"it holds {name}, which is not wanted" if name in saved else f"it lacks {name}"
        raise _other(folder, what)
    for target in targets:
        entry, dtype = saved[target.name], DTYPES[target.local.dtype]
        if entry.shape != target.shape:
            raise _other(folder, f"{target.name} has shape {list(entry.shape)} instead of {list(target.shape)}")
        if entry.dtype != dtype:
            raise _other(folder, f"{target.name} is {entry.dtype} instead of {dtype}")
        covered = sum(prod(stop - start for start, stop in _overlap(target, piece)) for piece in entry.pieces)
        if covered != target.local.numel():
            raise durable.damaged(folder, f"pieces of {target.name} are missing")


def _other(folder: Path, what: str) -> DataProblem:
    remedy = "resume with the recipe that wrote it, or start in a new run folder"
    return DataProblem(f"this checkpoint is of another model, {what}", where=str(folder), remedy=remedy)


def _overlap(target: Shard, piece: _Piece) -> list[tuple[int, int]]:
    """The part of the whole tensor that both hold, an interval [start, stop) a dimension."""
    sizes = zip(target.offset, target.local.shape, piece.offset, piece.shape, strict=True)
    spans = [(max(a, b), min(a + n, b + m)) for a, n, b, m in sizes]
    return [(start, max(start, stop)) for start, stop in spans]


def _copy(target: Shard, piece: _Piece) -> None:
    spans = _overlap(target, piece)
    if not prod(stop - start for start, stop in spans):
        return
    if not spans:  # a scalar cannot be sliced
        target.local.copy_(piece.file.get_tensor(target.name))
        return
    inner = tuple(slice(start - at, stop - at) for (start, stop), at in zip(spans, piece.offset, strict=True))
    outer = tuple(slice(start - at, stop - at) for (start, stop), at in zip(spans, target.offset, strict=True))
    target.local[outer].copy_(piece.file.get_slice(target.name)[inner])
