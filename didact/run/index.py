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
from didact.retrieve import store
from didact.retrieve.build import build
from didact.retrieve.embedding import load
from didact.retrieve.index import find
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground
from didact.run.search import named_embedding, told


def index(stage: Index, ground: Ground, folder: StageFolder) -> Artifact:
    """Builds the index, from the run's earlier one where there is one."""
    place, facts = folder.path / "index", dict[str, Any]()
    if ground.mesh.main:
        _begin(folder.path.parent.parent, place)
        sources = examples(stage.data, ground.outputs, stage.seed, stage.also)
        device = ground.mesh.device.type
        if stage.embedder == "model":
            assert ground.model is not None
            embedding = replace(load(str(ground.model), device), name=os.path.relpath(ground.model, place))
        else:
            embedding = named_embedding(stage.embedder, device, ground.say)
        facts = build(sources, place, stage, embedding, ground.say)
        ground.say(f"{stage.name}: {told(facts)}")
    ground.mesh.barrier()
    return Artifact(outputs={"index": place}, facts=facts)


def _begin(run: Path, place: Path) -> None:
    """Starts a new index with what the run's earlier one holds."""
    if place.exists() or not (run / "index").is_file():
        return
    try:
        earlier = find(run)
    except DataProblem:  # its stage's folder was deleted
        return
    with on_disk(place, "copy the earlier index"), store.locked(earlier, building=False):
        if (earlier / MANIFEST).exists():
            beside = place.with_name(".index")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            for name in (store.NAME, MANIFEST):
                shutil.copyfile(earlier / name, beside / name)
            beside.rename(place)
