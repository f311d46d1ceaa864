"""What makes the vectors of an index: a model, known again by the content of its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from didact.data.fetch import ASSETS, cache_dir, fetch
from didact.errors import DataProblem

if TYPE_CHECKING:
    import numpy as np

    from didact.retrieve.store import Store

Vectors = Callable[[Sequence[str], str], "np.ndarray"]
"""Texts and their role, ``query`` or ``document``, to unit vectors, fp32 [N, D]."""


@dataclass(frozen=True)
class Embedding:
    """A model that makes vectors.

    ``name`` is an asset's or a checkpoint folder, ``content`` the SHA-256 of its files: vectors of two models that
    differ in it do not compare.
    """

    name: str
    content: str
    vectors: Vectors


def load(name: str, device: str = "auto") -> Embedding:
    """The model of an asset's name or a checkpoint folder. Raises UsageProblem for one that does not embed."""
    from didact.engine.mesh import pick_device
    from didact.engine.precision import pick_dtype
    from didact.model import attention
    from didact.model.embed import Embedder
    from didact.model.load import load as load_net
    from didact.model.model import Model
    from didact.text import tokenizer as tokenizers
    from didact.text.render import Renderer

    folder, where = folder_of(name), pick_device(device)
    attention.register()
    model = Model(load_net(folder, pick_dtype("auto", where))).to(where)
    embed = Embedder.of(model, Renderer(tokenizers.load(folder)))
    return Embedding(name, content(folder), lambda texts, role: embed(texts, role).numpy())


def folder_of(name: str) -> Path:
    """The checkpoint folder behind a name, an asset fetched where it is not here yet."""
    from didact.model.load import resolve

    if name not in ASSETS:
        return resolve(name)
    folder = fetch(name, cache_dir(), lambda line: None)
    return next(iter(sorted(weights.parent for weights in folder.rglob("model.safetensors"))))


def content(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.iterdir() if each.is_file()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_same(name: str, known: str, index: Store, device: str = "auto") -> Embedding:
    """The model an index was made with; ``name`` may be relative to it. Raises DataProblem where it is another now."""
    place = name if name in ASSETS else str((index.folder / name).resolve())
    remedy = "build the index again, or search its words alone (mode words)"
    if name not in ASSETS and not Path(place).is_dir():
        raise DataProblem(f"the model that made its vectors, {place}, is gone", where=index.name, remedy=remedy)
    if content(folder_of(name if name in ASSETS else place)) != known:
        raise DataProblem(f"{place} is not the model that made its vectors", where=index.name, remedy=remedy)
    return load(place, device)
