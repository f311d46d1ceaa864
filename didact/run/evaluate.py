"""The stage ``evaluate``: bits per byte, answers and measures of a model, beside the base's."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from didact import measure as measures
from didact.data.source import examples
from didact.engine.evaluate import Score, evaluate, scorer
from didact.errors import UsageProblem
from didact.model.encoder import positions
from didact.model.model import Model
from didact.recipe.judging import Evaluate
from didact.rollout.diffusion import writer
from didact.rollout.settings import Sampling
from didact.run.find import find_model
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground, before_after, opened, parts_of
from didact.run.rewards import Shelf
from didact.text.render import Renderer


def evaluate_stage(stage: Evaluate, ground: Ground, folder: StageFolder) -> Artifact:
    """Bits per byte of each set and answers to the samples, beside the base's."""
    if ground.model is None:
        raise UsageProblem("there is no model to evaluate yet", where=stage.name, remedy="train one before this stage")
    names = ", ".join([*stage.data, *stage.measures]) or "answers"
    ground.say(f"measuring {names} after")
    after, said_after, taken_after = _measure(stage, ground.model, ground)
    before, said_before, taken_before = {}, [], {}
    if stage.against == "base" and ground.base is not None:
        ground.say(f"measuring {names} before")
        before, said_before, taken_before = _measure(stage, ground.base, ground)
    breaches = [
        f"{name}: {after[name].bits_per_byte:.4f} bits per byte, the gate allows {ceiling}"
        for name, ceiling in stage.gate.items()
        if not after[name].bits_per_byte <= ceiling  # a score that is no number passes no gate
    ]
    facts = {
        "evaluations": {name: before_after(before.get(name), score) for name, score in after.items()},
        "samples": [
            {"prompt": prompt, "before": said_before[i] if said_before else None, "after": said_after[i]}
            for i, prompt in enumerate(stage.samples)
        ],
        "measures": {
            name: {**taken, "before": taken_before[name]["value"]} if taken_before else taken
            for name, taken in taken_after.items()
        },
        "breaches": breaches,
    }
    return Artifact(facts=facts)


def _measure(
    stage: Evaluate, where: Path, ground: Ground
) -> tuple[dict[str, Score], list[str], dict[str, dict[str, Any]]]:
    """Scores, answers and measures of one model with its own tokenizer: bits per byte compare across tokenizers."""
    model, renderer = opened(where, ground.mesh.device)
    model.check()
    context = min(stage.context, positions(model.net.config))
    if stage.data and context < stage.context:
        ground.say(f"{stage.name}: the model has {context} positions, so it reads windows of {context} tokens")
    if stage.data and "text_diffusion" in model.served:
        ground.say(f"{stage.name}: bits per byte of a diffusion model are an upper bound")
    sets = {
        name: parts_of(data, ground, renderer, stage.seed, context, stage.limit)[0] for name, data in stage.data.items()
    }
    scores = {name: evaluate(model, scorer(model), parts, context, ground.mesh) for name, parts in sets.items()}
    prompts = [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in stage.samples]
    greedy = Sampling(temperature=0, max_new_tokens=stage.max_new_tokens)
    answers = writer(model, renderer.decode, renderer.stops).generate(prompts, greedy)
    return scores, [answer.text for answer in answers], _taken(stage, model.eval(), renderer, ground, where)


def _taken(stage: Evaluate, model: Model, renderer: Renderer, ground: Ground, where: Path) -> dict[str, dict[str, Any]]:
    """Each measure's value, unit and better direction."""
    taken = {}
    shelf = {where: (model, renderer)}

    def named(name: str) -> tuple[Model, Renderer]:
        """Another model: the base, what a stage left, or one by its name."""
        place = (
            ground.base if name == "base" else ground.outputs.get(name) or find_model(name, ground.cache, ground.say)
        )
        if place is None:
            what = "there is no base to compare with"
            raise UsageProblem(what, where=stage.name, remedy="name what a stage left, as against: finetune/model")
        if place not in shelf:
            other, reads = opened(place, ground.mesh.device)
            shelf[place] = other.eval(), reads
        return shelf[place]

    for name, spec in stage.measures.items():
        measure = measures.resolve(spec.kind, spec.options)
        sources = examples(spec.data, ground.outputs, stage.seed)
        found: list[Any] = [one for each in sources for one in (each.records() if measure.records else each)]
        if spec.limit and spec.limit < len(found):
            found = random.Random(stage.seed).sample(found, spec.limit)
        say = partial(_tell, ground.say, f"{stage.name}: {name}: ")
        with torch.no_grad():
            value = measure(
                measures.Subject(model, renderer, ground.mesh, stage.seed, named, Shelf(ground), say), found
            )
        taken[name] = {"value": value, "unit": measure.unit, "better": measure.better}
    return taken


def _tell(say: Callable[[str], None], who: str, line: str) -> None:
    say(f"{who}{line}")
