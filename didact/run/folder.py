"""``runs/NAME/``: where the stages of one life stand, and how a finished one is known again."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from didact.engine.durable import on_disk
from didact.errors import DataProblem

DONE = "done.json"


@dataclass(frozen=True)
class Artifact:
    """What a finished stage left behind, all paths absolute.

    ``model`` is a checkpoint folder, ``tokenizer`` a folder that holds a trained one, ``outputs`` files by the names a
    later stage calls them, ``facts`` the numbers and texts a report shows.
    """

    model: Path | None = None
    tokenizer: Path | None = None
    outputs: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def identity(*parts: str) -> str:
    """The name of a stage that is what it is because of ``parts``: specification, input content, parent."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def content(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files: the identity of a model that came from elsewhere."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class StageFolder:
    """One stage's folder; its name carries the stage's identity, so a changed recipe never reads stale results."""

    path: Path

    @property
    def model(self) -> Path:
        """Where a training stage leaves its checkpoint folder."""
        return self.path / "model"

    def finished(self) -> Artifact | None:
        """What the stage left, or None while it is unfinished. Raises DataProblem for a damaged record."""
        record = self.path / DONE
        if not record.exists():
            return None
        try:
            saved = json.loads(record.read_text())
            return Artifact(
                model=_inside(self.path, saved["model"]),
                tokenizer=_inside(self.path, saved["tokenizer"]),
                outputs={name: self.path / path for name, path in saved["outputs"].items()},
                facts=saved["facts"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataProblem(
                "not a stage's record", where=str(record), remedy="delete it to run the stage again"
            ) from error

    def finish(self, artifact: Artifact) -> None:
        """Records the stage as finished: the last thing written, beside and renamed.

        Only then the checkpoints go, so that a kill a moment before loses no work.
        """
        saved = {
            "model": artifact.model and os.path.relpath(artifact.model, self.path),
            "tokenizer": artifact.tokenizer and os.path.relpath(artifact.tokenizer, self.path),
            "outputs": {name: os.path.relpath(path, self.path) for name, path in artifact.outputs.items()},
            "facts": artifact.facts,
        }
        replace(self.path / DONE, json.dumps(saved, indent=1, default=str))
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _inside(folder: Path, relative: str | None) -> Path | None:
    return None if relative is None else Path(os.path.normpath(folder / relative))


def replace(path: Path, text: str) -> None:
    """Writes a small file beside and renames it into place. Raises ResourceProblem where the disk refuses."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with on_disk(path, "write it"):
        try:
            with open(beside, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def run_folder(runs: Path, name: str) -> Path:
    """``runs/NAME``, made if need be. Raises ResourceProblem where it cannot be."""
    folder = runs.resolve() / name
    with on_disk(folder, "make this folder"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def stage_folder(run: Path, number: int, name: str, identity: str) -> StageFolder:
    """``runs/NAME/stages/2-finetune-0123456789ab``; under an older name or number where the same stage stands so."""
    stages = run / "stages"
    known = sorted(stages.glob(f"*-{identity}"))
    return StageFolder(known[0] if known else stages / f"{number}-{name}-{identity}")
