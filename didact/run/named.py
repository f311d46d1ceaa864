"""A model as a person names it on the command line: where it lies, and opened with all that serving it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from didact.data.fetch import ASSETS, cache_dir
from didact.engine.mesh import pick_device
from didact.errors import DataProblem, UsageProblem
from didact.model.model import Model
from didact.run.find import find_model
from didact.run.ground import opened
from didact.text.render import Renderer


@dataclass(frozen=True)
class Named:
    """A model ready to serve: its checkpoint folder, the model, and its renderer with every stop id."""

    where: Path
    model: Model
    renderer: Renderer


def locate(name: str, say: Callable[[str], None]) -> Path:
    """The checkpoint folder behind a run folder, a checkpoint folder, a .gguf file, an asset's name or a hub id.

    Raises UsageProblem for a run without a model yet, DataProblem for a path that leads nowhere: a name that begins
    with a folder that is here is never asked of the hub.
    """
    path = Path(name).expanduser()
    if (
        (path / "recipe.yaml").is_file()
        and not (path / "model.path").is_file()
        and not (path / "config.json").is_file()
    ):
        remedy = f"finish it with `didact run {path / 'recipe.yaml'}`"
        raise UsageProblem("this run has left no model yet", where=name, remedy=remedy)
    if name not in ASSETS and not path.exists() and (path.is_absolute() or Path(path.parts[0]).is_dir()):
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1)
        remedy = f"did you mean {path.parent / near[0]}?" if near else "name a run, a checkpoint folder or a .gguf file"
        raise DataProblem("no such folder or file", where=name, remedy=remedy)
    return find_model(str(path), cache_dir(), say)


def open_model(name: str, device: str, say: Callable[[str], None], dtype: torch.dtype | None = None) -> Named:
    """Loads the model onto the device, in ``dtype`` or the device's own."""
    where = locate(name, say)
    return Named(where, *opened(where, pick_device(device), dtype))
