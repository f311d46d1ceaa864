"""The heads of objectives beside the network's weights: ``heads.safetensors``, a file transformers passes over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from didact.errors import DataProblem, Problem
from didact.model.load import resolve
from didact.model.shards import header
from didact.objective.base import Head

if TYPE_CHECKING:
    from didact.model.model import Model

FILE = "heads.safetensors"


def write(heads: Mapping[str, Tensor], folder: Path) -> None:
    """Writes ``NAME.weight`` [outputs, D] and ``NAME.bias`` [outputs] of each head, and reads them back."""
    if not heads:
        return
    save_file({name: tensor.contiguous() for name, tensor in heads.items()}, folder / FILE)
    again = load_file(folder / FILE)
    if again.keys() != heads.keys() or not all(torch.equal(again[name], heads[name].cpu()) for name in heads):
        raise Problem("the heads were not saved as they are", where=str(folder), remedy="report this as a bug")


def restore(model: Model, where: str | Path) -> None:
    """Gives the model the heads that lie in the folder it was loaded from; those it had not are frozen.

    Raises DataProblem for a damaged file and for heads of another model.
    """
    path = resolve(where) / FILE
    if not path.is_file():
        return
    shapes, mine = header(path), set(model.heads)
    sizes = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    model.add_heads({name: Head(shape[0], shape[-1]) for name, shape in sizes.items()})
    places = {name: tuple(tensor.shape) for name, tensor in model.heads.state_dict().items()}
    if any(places.get(name) != shape for name, shape in shapes.items()):
        what = "these heads are not of this model"
        raise DataProblem(what, where=str(path), remedy="delete the file to begin them anew")
    state = load_file(path)
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise DataProblem("a head holds numbers that are not finite", where=str(path), remedy="train the model again")
    model.heads.load_state_dict(state, strict=False)
    for name, linear in model.heads.items():
        linear.requires_grad_(name in mine)
