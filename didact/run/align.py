"""The stage ``align``: looks at the judgements, weighs those who gave them, and learns from them."""

from collections.abc import Sequence
from dataclasses import replace

from didact.data.confounds import confounds
from didact.data.pieces import Pieces
from didact.data.sets import arranged
from didact.data.source import examples
from didact.data.trust import trusted
from didact.errors import DataProblem, UsageProblem
from didact.objective import resolve
from didact.recipe.aligning import Align
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground
from didact.run.learn import learn


def align(stage: Align, ground: Ground, folder: StageFolder) -> Artifact:
    """Trains as any stage does; its facts have ``judgements``, what there was to learn from."""
    judged = [task for task in stage.task_list if resolve(task.objective.name, task.objective.options).judged]
    if not judged:
        what = f"{stage.task_list[0].objective.name} does not learn from judgements"
        raise UsageProblem(what, where=stage.name, remedy="choose dpo, kto or their like, or the stage finetune")
    found = {}
    for task in judged:
        sources = examples(task.data, ground.outputs, stage.seed)
        objective = resolve(task.objective.name, task.objective.options)
        counted = confounds(example for source in sources for example in arranged(source, objective))
        if objective.compares and not counted.pairs:
            where = ", ".join(source.path for source in task.data.sources)
            what = f"{counted.answers:,} answers to {counted.prompts:,} prompts, and no two to one are worth different"
            remedy = "give chosen and rejected, rankings, or several ratings of a prompt"
            raise DataProblem(what, where=where, remedy=remedy)
        found[task.name] = counted.facts()
        for line in counted.lines():
            ground.say(f"{stage.name}: {line}")
    if stage.annotators == "alike":
        artifact = learn(stage, ground, folder)
        return replace(artifact, facts={**artifact.facts, "judgements": found})

    def weigh(parts: Sequence[Pieces]) -> list[Pieces]:
        weighed, line = trusted(parts)
        ground.say(f"{stage.name}: {line}")
        return weighed

    artifact = learn(stage, ground, folder, weigh)
    return replace(artifact, facts={**artifact.facts, "judgements": found})
