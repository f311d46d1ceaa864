"""Didact's side of alignment: the step that the stages ``align`` and ``reinforce`` take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.aligned import reward
from benchmarks.case import Job, Measured
from benchmarks.hyper import HYPER
from benchmarks.ours import loop
from didact.engine.mesh import Mesh
from didact.engine.precision import compiled, pick_dtype
from didact.engine.settings import Training
from didact.engine.step import Task
from didact.model import attention
from didact.model.load import load
from didact.model.model import Model
from didact.model.settings import Tune
from didact.model.tune import apply
from didact.objective import resolve
from didact.objective.policy import Policy
from didact.rollout.cast import Cast
from didact.rollout.experience import Experience, Setting
from didact.rollout.prompts import Prompt
from didact.rollout.reward.base import Answered
from didact.rollout.settings import Rollout
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer


def opened(job: Job) -> tuple[Model, Training, Renderer]:
    """The model as a stage trains it, and what reads text for it."""
    settings = Training(
        precision=job.options["precision"], compile=job.options["compile"], learning_rate=job.options["rate"], **HYPER
    )
    attention.register()
    net = load(job.inputs.model, pick_dtype(settings.precision, torch.device("cpu")))
    apply(net, Tune())
    model = Model(net)
    model.check()
    return model.train(), settings, Renderer(tokenizers.load(Path(job.inputs.model)))


def reinforce(job: Job) -> Measured:
    """``options``: ``objective`` (grpo, ppo) without KL; answers go on to the last of ``extra["new_tokens"]``."""
    group, new = job.inputs.extra["group"], job.inputs.extra["new_tokens"]
    model, settings, renderer = opened(job)
    renderer.__dict__["stops"] = ()  # no id ends an answer
    objective = resolve(job.options["objective"], {"beta": 0.0})
    assert isinstance(objective, Policy)
    objective = objective.acting(new, 1.0, ("spaces",))
    model.add_heads(objective.heads)
    model = compiled(model, settings, len(job.inputs.steps))
    steps = job.inputs.steps
    prompts = [Prompt(tuple(one), ({"role": "user", "content": ""},), {}) for step in steps for one in step]
    mesh = Mesh(torch.device("cpu"))

    def rewards(done: Sequence[Answered]) -> tuple[list[float], dict[str, list[float]]]:
        given = [reward(one.answer) for one in done]
        return given, {"spaces": given}

    with tempfile.TemporaryDirectory() as folder:
        rollout = Rollout(group=group, max_new_tokens=new)
        setting = Setting(len(steps[0]), 64, 1024, 0, Path(folder), "bench", rollout)
        cast = Cast(model, mesh, lambda: model)
        stream = Experience(objective, prompts, rewards, cast, renderer, setting, mesh, lambda line: None)
        task = Task("bench", objective, stream.start(0))
        measured = loop(model, settings, task, len(steps), micro_rows=64)
    return Measured(measured.seconds, [group * new * len(step) for step in steps], measured.losses)
