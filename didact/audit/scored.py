"""The laws of a reward model at toy size: it scores answers as it learned to, and what is saved is what was trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from didact.batch import Batch
from didact.data.example import Answers
from didact.model.classifier import Classifier, save_classifier, save_member
from didact.model.model import Model
from didact.objective.reward import rewards
from didact.rollout.reward.base import Answered
from didact.rollout.reward.model import worth
from didact.text.render import Renderer, turns


def scored_as_trained(model: Model, renderer: Renderer, batch: Batch, examples: Sequence[Answers]) -> float:
    """Law 5: what training reads of prompts with all of their answers, a row each, against scoring them one by one."""
    with torch.no_grad():
        ours = rewards(model, batch).cpu()  # [B, A]
    one = Classifier(model, renderer, {}, Path())
    apart = [
        (worth(one, [_answered(example, number)])[0] - ours[row, number]).abs()
        for row, example in enumerate(examples)
        for number in range(len(example.answers))
    ]
    return float(torch.stack(apart).max())


def _answered(example: Answers, number: int) -> Answered:
    """An answer as a stage that learns from rewards has it."""
    prompt, answer = example.prompt, example.answers[number]
    if isinstance(prompt, str) and isinstance(answer, str):
        return Answered((), answer, {"prompt": prompt})
    return Answered(tuple(map(dict, turns(prompt, "user"))), turns(answer, "assistant")[-1]["content"], {})


def save_scorers(fresh: Callable[[int], tuple[Renderer, Model]], ensemble: int, folder: Path) -> None:
    """Law 6 of a reward model, with a second member where there is an ensemble; ``fresh`` makes toys, by a seed."""
    others = {"member-2": folder / "member-2"} if ensemble > 1 else {}
    for place in others.values():
        other = fresh(2)[1]
        save_member(other.net, _head(other), place, {})
    renderer, model = fresh(1)
    given = model.net, _head(model), renderer.tokenizer, renderer.stops
    save_classifier(*given, folder / "saved", {}, others=others)


def _head(model: Model) -> Tensor:
    """[D]."""
    return model.heads["reward"].get_parameter("weight").detach()[0]
