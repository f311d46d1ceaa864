"""From the name of a model to its checkpoint folder."""

from collections.abc import Callable
from pathlib import Path

from didact.data.fetch import ASSETS, fetch
from didact.errors import DataProblem
from didact.model.load import resolve


def find_model(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The checkpoint folder behind an asset's name, a run folder, a folder, a hub id or a .gguf file."""
    if name in ASSETS:
        folder = fetch(name, cache, say)
        return resolve(next(iter([*folder.rglob("*.gguf"), *(w.parent for w in folder.rglob("model.safetensors"))])))
    pointer = Path(name) / "model.path"
    if pointer.is_file():
        folder = Path(name) / pointer.read_text().strip()
        if not folder.is_dir():
            raise DataProblem(f"the model it names, {folder.name}, is gone", where=str(pointer), remedy="run it again")
        return folder
    return resolve(name)
