"""The stage ``index``."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from didact.data.source import examples
from didact.engine.durable import MANIFEST, on_disk
from didact.errors import DataProblem
from didact.recipe.making import Index
from didact.retrieve import folder as files
from didact.retrieve.build import build, goes_on
from didact.retrieve.embedding import Embedding, load
from didact.retrieve.where import SERVER, find, stored
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground
from didact.run.search import named_embedding, told


def index(stage: Index, ground: Ground, folder: StageFolder) -> Artifact:
    """Builds the index, from the run's earlier one where there is one; in a server, there."""
    place, facts = folder.path / "index", dict[str, Any]()
    if ground.mesh.main:
        embedding = _embedding(stage, ground, place)
        sources = examples(stage.data, ground.outputs, stage.seed, stage.also)
        if stage.store is None:
            _begin(folder.path.parent.parent, place, stage, embedding)
        facts = build(sources, stage.store or place, stage, embedding, ground.say)
        if stage.store:
            _point(place, stage.store)
        ground.say(f"{stage.name}: {told(facts)}")
    ground.mesh.barrier()
    return Artifact(outputs={"index": place}, facts=facts)


def _embedding(stage: Index, ground: Ground, place: Path) -> Embedding | None:
    device = ground.mesh.device.type
    if stage.embedder != "model":
        return named_embedding(stage.embedder, device, ground.say)
    assert ground.model is not None
    made = load(str(ground.model), device)
    return replace(made, name=str(ground.model.resolve()) if stage.store else os.path.relpath(ground.model, place))


def _point(place: Path, url: str) -> None:
    """Leaves the URL of an index in a server, and what it is now, so that a later stage knows when it has changed."""
    base = stored(url).connect()
    digest = base.facts()["digest"]
    base.close()
    with on_disk(place, "point at the index"):
        place.mkdir(exist_ok=True)
        (place / SERVER).write_text(f"{url}\n{digest}\n")


def _begin(run: Path, place: Path, stage: Index, embedding: Embedding | None) -> None:
    """Starts a new index with what the run's earlier one holds, where that can be gone on with."""
    if place.exists() or not (run / "index").is_file():
        return
    try:
        earlier = find(run)
    except DataProblem:  # its stage's folder was deleted
        return
    if not isinstance(earlier, files.Folder):
        return
    with on_disk(place, "copy the earlier index"), earlier.locked(building=False):
        if goes_on(earlier.folder, stage, embedding):
            beside = place.with_name(".index")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            for name in (files.NAME, MANIFEST):
                shutil.copyfile(earlier.folder / name, beside / name)
            beside.rename(place)
