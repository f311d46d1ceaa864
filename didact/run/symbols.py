"""The stage ``symbols``: from classified texts to the prompts of symbol tuning."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from didact.data.domain.writing import write
from didact.data.settings import Data
from didact.data.source import examples
from didact.data.symbols import Labelled, Plan, document, gather, parted, vocabulary
from didact.engine.durable import on_disk
from didact.recipe.making import Symbols
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground


def write_symbols(stage: Symbols, ground: Ground, folder: StageFolder) -> Artifact:
    """Writes one file an output; the bytes are a function of the data and the stage alone."""
    facts: dict[str, Any] = {}
    if ground.mesh.main:
        train = _tasks(stage, stage.data, ground)
        apart = _tasks(stage, stage.heldout, ground) if stage.heldout else []
        if not apart:
            train, apart = parted(train, stage.share, stage.seed)
        words = vocabulary([*train, *apart], stage.seed) if "words" in stage.kinds else ()
        plan = Plan(stage.shots, stage.classes, stage.kinds, stage.instructed, words, stage.seed)
        learned = list(plan.train(train, stage.examples))
        measured = list(plan.measured(apart, stage.evaluations, stage.evaluation_shots))
        with on_disk(folder.path, "write the prompts"):
            for made in (learned, measured):
                for name in made[0]:
                    lines = [one[name] for one in made]
                    whole = stage.whole and name in ("train", "plain")
                    write(folder.path / f"{name}.jsonl", _lines(map(document, lines) if whole else lines))
        facts = {"symbols": {"learned": _facts(train), "measured": _facts(apart)}}
    ground.mesh.barrier()
    return Artifact(outputs={name: folder.path / f"{name}.jsonl" for name in stage.outputs}, facts=facts)


def _tasks(stage: Symbols, data: Data, ground: Ground) -> list[Labelled]:
    tasks = []
    for found in examples(data, ground.outputs, stage.seed):
        name, weight = found.source.path, found.source.weight
        task, left = gather(name, found, stage.longest, stage.instructions.get(name, ""), weight)
        tasks.append(task)
        count = sum(map(len, task.texts.values()))
        ground.say(
            f"{stage.name}: {name}: {len(task.texts)} labels, {count:,} texts"
            + (f"; {left:,} left out, which name a label or have two" if left else "")
        )
    return tasks


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records).encode()


def _facts(tasks: Iterable[Labelled]) -> list[dict[str, Any]]:
    return [{"task": task.name, "texts": {label: len(texts) for label, texts in task.texts.items()}} for task in tasks]
