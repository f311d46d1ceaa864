"""Arms beside each other: each from the model so far and with each seed, and what was measured of what came of it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.recipe.judging import Evaluate
from didact.recipe.learning import Learning
from didact.recipe.measured import expectation
from didact.recipe.schema import Compare
from didact.recipe.stage import Stage
from didact.run.folder import Artifact, StageFolder

if TYPE_CHECKING:
    from didact.run.life import Finished, Life


def compare(stage: Compare, life: "Life", folder: StageFolder) -> Artifact:
    """Runs every arm with every seed and holds their measures against what was expected.

    A finished arm is skipped like any stage. Of the models only the first arm's with the first seed is kept.
    """
    first: Path | None = None
    taken: dict[str, dict[str, list[float]]] = {name: {arm: [] for arm in stage.arms} for name in stage.measures}
    trained: list[dict[str, Any]] = []
    said: dict[str, dict[str, str]] = {}
    for arm, stages in stage.arms.items():
        for seed in stage.seeds if stages else stage.seeds[:1]:  # the model as it is has no seed
            life.say(f"{stage.name}: {arm}, seed {seed}")
            start = life.model or life.base  # what a measure of an arm calls the base is what all arms start from
            branch = replace(life, folder=folder.path / f"{arm}-{seed}", outputs=dict(life.outputs), base=start)
            *learned, measured = _arm(stage, branch, stages, seed)
            keep = first is None and arm == next(iter(stage.arms))
            first = branch.model if keep and stages else first
            if life.mesh.main and not keep:
                for one in learned:
                    shutil.rmtree(one.folder.model, ignore_errors=True)
            for name, found in measured.artifact.facts["measures"].items():
                taken[name][arm].append(found["value"])
                said[name] = {"unit": found["unit"], "better": found["better"]}
            trained += [
                {"name": f"{arm}, seed {seed}: {one.stage.name}", "kind": one.stage.kind, **one.artifact.facts}
                for one in learned
                if isinstance(one.stage, Learning)
            ]
        if not stages:
            for found in taken.values():
                found[arm] *= len(stage.seeds)
    comparison = {"seeds": stage.seeds, "measures": {name: {**said[name], "arms": taken[name]} for name in taken}}
    verdicts = list(_verdicts(stage, taken))
    breaches = [line for line, holds in verdicts if not all(holds)]
    facts = {"comparison": comparison, "expect": verdicts, "trained": trained, "breaches": breaches}
    return Artifact(model=first, facts=facts)


def _arm(stage: Compare, branch: "Life", stages: tuple[Stage, ...], seed: int) -> "Iterator[Finished]":
    """The stages of an arm, and last its measures."""
    for number, one in enumerate(stages):
        yield branch.stage(number, one.model_copy(update={"seed": seed}))
    measures = Evaluate(name="measures", measures=stage.measures, against="none", seed=stage.seed)
    yield branch.stage(len(stages), measures)


def _verdicts(stage: Compare, taken: dict[str, dict[str, list[float]]]) -> Iterator[tuple[str, list[bool]]]:
    """Each expectation and whether it holds, seed by seed."""
    for text in stage.expect:
        wanted = expectation(text)
        arms = taken[wanted.measure]
        numbers = [{arm: values[i] for arm, values in arms.items()} for i in range(len(stage.seeds))]
        yield text, [wanted.holds(one) for one in numbers]
