"""A task whose data are the model's own answers: its prompts, its rewards and the stream of both."""

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerFast

from didact.data.pieces import Counts
from didact.data.source import examples
from didact.engine.step import Source
from didact.errors import UsageProblem
from didact.model.classifier import open_classifiers
from didact.model.model import Model
from didact.model.tune import apply
from didact.objective.policy import Policy
from didact.recipe.learning import Learning, TaskSpec
from didact.recipe.reinforcing import Reinforce
from didact.rollout.cast import Cast
from didact.rollout.environment import environment
from didact.rollout.experience import Experience, Setting
from didact.rollout.prompts import fitting, prompt
from didact.rollout.reward.base import Answered
from didact.rollout.reward.model import Model as Said
from didact.run.folder import StageFolder
from didact.run.ground import Ground
from didact.run.rewards import Shelf, Weighed, weighed
from didact.text.render import Renderer


def acting(
    stage: Learning,
    task: TaskSpec,
    objective: Policy,
    ground: Ground,
    renderer: Renderer,
    model: Model,
    whole: Callable[[], Model],
    folder: StageFolder,
) -> tuple[Source, Counts, int]:
    """The task's source, what its prompts are, and how many steps they last; ``whole`` makes the starting model."""
    assert isinstance(stage, Reinforce)  # foreseen
    if stage.critic and not objective.critic:
        what = f"{task.objective.name} has no critic"
        raise UsageProblem(what, where=stage.name, remedy="leave critic out, or use the objective ppo")
    model.check_writes()
    found = [one for source in examples(task.data, ground.outputs, stage.seed) for one in source.records()]
    rollout = stage.rollout
    if rollout.group == 1 and objective.baseline != "none":
        what = f"an answer is held against the others to its prompt (baseline {objective.baseline}), and there is one"
        raise UsageProblem(what, where=f"{stage.name}.rollout.group", remedy="give 2 or more, or objective: ppo")
    around = environment(rollout.environment) if rollout.environment else None
    opened = [around.opening(record) if around else () for _, record in found]
    asked = (prompt(*one, renderer, opening) for one, opening in zip(found, opened, strict=True))
    kept, longer = fitting(asked, stage.context - rollout.max_new_tokens)
    rewards = weighed(stage.rewards, Shelf(ground, stage.force))
    names = called(rewards)
    sources = (*names.values(), *(("environment",) if around else ()))
    objective = objective.acting(rollout.max_new_tokens, rollout.temperature, sources)
    setting = Setting(
        stage.batch_size, stage.micro_batch_size, stage.context, stage.seed, folder.path, task.name, rollout
    )
    cast = Cast(model, ground.mesh, whole)

    def judged(done: Sequence[Answered]) -> tuple[list[float], dict[str, list[float]]]:
        total, said = rewards(done)
        return total, {names[name]: values for name, values in said.items()}

    stream = Experience(objective, kept, judged, cast, renderer, setting, ground.mesh, ground.say, around)
    ground.say(
        f"{stage.name}: {len(kept):,} prompts, {rollout.group} answers to each"
        + (f"; {longer:,} longer than {stage.context - rollout.max_new_tokens} tokens were left out" if longer else "")
    )
    read = sum(len(one.tokens) for one in kept)
    counts = Counts(documents=len(found), tokens=read, pieces=len(kept), dropped_overlong=longer)
    return Source(task.name, objective, stream, task), counts, steps(stage, stream)


def critic(stage: Learning, ground: Ground, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype) -> Model | None:
    """The network for the values of a stage that names a reward model, as which it begins; tuned as the stage says.

    It expects what that model says as often as the rewards count it. Raises UsageProblem for a reward model that reads
    other tokens.
    """
    if not isinstance(stage, Reinforce) or stage.critic is None:
        return None
    folder = Shelf(ground).folder(stage.critic.removeprefix("hub:"))
    opened = open_classifiers(folder, torch.device("cpu"), dtype)[0]
    if opened.renderer.tokenizer.get_vocab() != tokenizer.get_vocab():
        what = f"the reward model {stage.critic} reads other tokens than the model it is to be the critic of"
        raise UsageProblem(what, where=stage.name, remedy="name a reward model that was trained from the same model")
    model = opened.model
    counted = [one.weight for one in stage.rewards if isinstance(one, Said) and one.path == stage.critic]
    model.heads["value"] = model.heads.pop("reward")
    with torch.no_grad():
        model.heads["value"].get_parameter("weight").mul_(sum(counted) or 1.0)
    if stage.tune.what != "head":
        apply(model.net, stage.tune.model_copy(update={"tokens": ()}), seed=stage.seed)
    if stage.activation_checkpointing:
        model.net.gradient_checkpointing_enable({"use_reentrant": False})
    model.heads.requires_grad_(True)
    return model


def called(rewards: Weighed) -> dict[str, str]:
    """What each reward is called among the gauges: one that is only measured is a ``heldout`` one."""
    pairs = zip(rewards.rewards, rewards.weights, strict=True)
    kept = {one.name: bool(weight) or one.name.startswith("heldout") for one, weight in pairs}
    return {name: name if plain else f"heldout/{name}" for name, plain in kept.items()}


def steps(stage: Reinforce, stream: Experience) -> int:
    """Steps of a stage: the first reached of epochs over the prompts and max_steps; one epoch when none is said.

    Raises UsageProblem where a number of tokens is wanted: how many the model will write is not known.
    """
    if stage.tokens:
        what = "how many tokens a model will answer with is not known before"
        raise UsageProblem(what, where=stage.name, remedy="give epochs or max_steps in the place of tokens")
    bounds = [stage.max_steps] if stage.max_steps else []
    if stage.epochs or not bounds:
        phases = math.ceil((stage.epochs or 1.0) * len(stream.prompts) / stream.size)
        bounds.append(phases * stream.batches)
    return max(1, min(bounds))
