"""Didact's side of alignment: the step that the stages ``align`` and ``reinforce`` take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.aligned import of_labels, of_pairs, reward
from benchmarks.case import Job, Measured
from benchmarks.clock import Clock
from benchmarks.ours import loop, opened
from didact.batch import Batch
from didact.data.answers import Judged
from didact.data.corpus import Corpus
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.precision import compiled, compiles
from didact.engine.step import Task
from didact.objective import resolve
from didact.objective.policy import Policy
from didact.rollout.cast import Cast, read
from didact.rollout.experience import Experience, Said, Setting
from didact.rollout.phase import Phase
from didact.rollout.prompts import Prompt
from didact.rollout.reward.base import Answered
from didact.rollout.settings import Rollout
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer


def prefer(job: Job) -> Measured:
    """``options``: ``objective``, dpo of pairs or kto of labels, with the reference's columns made before."""
    model, settings = opened(job)
    objective = resolve(job.options["objective"], {})
    labels = job.options["objective"] == "kto"
    batches = [row(_turned(step) if labels else _paired(step)) for step in job.inputs.steps]
    model = compiled(model, compiles(settings, len(batches)))
    batches = [batch.with_(reference=read(model, batch, 1.0, 1)) for batch in batches]
    task = Task("bench", objective, ((batch, number) for number, batch in enumerate(batches)))
    measured = loop(model, settings, task, len(batches), micro_rows=1)
    tokens = [(of_labels if labels else of_pairs)(step) for step in job.inputs.steps]
    return replace(measured, tokens=tokens)


Asked = tuple[list[int], list[list[int]], list[float]]  # a prompt, its answers, what they are worth


def _paired(step: list[Any]) -> list[Asked]:
    return [(prompt, [chosen, rejected], [1.0, 0.0]) for prompt, chosen, rejected in step]


def _turned(step: list[Any]) -> list[Asked]:
    """Each prompt with its answer, and with the one before, which nobody judged."""
    before = [answer for _, answer, _ in [step[-1], *step[:-1]]]
    return [(prompt, [own, other], [label, nan]) for (prompt, own, label), other in zip(step, before, strict=True)]


def row(examples: list[Asked]) -> Batch:
    """All examples of a step in one row."""
    token, trained, branch = list[int](), list[bool](), list[int]()
    for prompt, answers, _ in examples:
        parts = [prompt[:-1], *([prompt[-1], *answer] for answer in answers)]
        token += [one for part in parts for one in part]
        trained += [number > 0 and place > 0 for number, part in enumerate(parts) for place in range(len(part))]
        branch += [number for number, part in enumerate(parts) for _ in part]
    sizes = [len(prompt) - 1 + sum(1 + len(answer) for answer in answers) for prompt, answers, _ in examples]
    bound = np.cumsum([0, *sizes])
    score = np.asarray([value for _, _, values in examples for value in values], np.float32)
    counts = np.cumsum([0, *(len(values) for _, _, values in examples)])
    judged = Judged(np.asarray(branch, np.int16), score, np.zeros(len(score), np.int64), counts)
    corpus = Corpus(np.asarray(token, np.int32), np.asarray(trained), bound, np.diff(bound), judged=judged)
    parts = cut([corpus], int(bound[-1]), "drop")[0]
    return next(TokenStream(parts, int(bound[-1]), 1, 0, shuffle=False).start(0))[0]


class Watched(Experience):
    """With a clock that says what a phase went into."""

    clock: Clock

    def phase(self, number: int) -> Phase:
        with self.clock.part("reading"):  # the reference, the critic's values, and law 5
            return super().phase(number)

    def _answers(self, *args: Any) -> Said:
        with self.clock.part("sampling"):
            return super()._answers(*args)


def reinforce(job: Job) -> Measured:
    """``options``: ``objective`` (grpo, ppo) and its ``beta``, ``epochs`` over the ``group`` answers of each prompt.

    Answers go on to the last of ``extra["new_tokens"]``; a step is a phase.
    """
    group, new, epochs = job.options["group"], job.inputs.extra["new_tokens"], job.options["epochs"]
    model, settings = opened(job)
    renderer = Renderer(tokenizers.load(Path(job.inputs.model)))
    renderer.__dict__["stops"] = ()  # no id ends an answer
    objective = resolve(job.options["objective"], {"beta": job.options["beta"]})
    assert isinstance(objective, Policy)
    objective = objective.acting(new, 1.0, ("spaces",))
    model.add_heads(objective.heads)
    steps = job.inputs.steps
    model = compiled(model, compiles(settings, len(steps) * epochs))
    prompts = [Prompt(tuple(one), ({"role": "user", "content": ""},), {}) for step in steps for one in step]
    mesh = Mesh(torch.device("cpu"))

    def rewards(done: Sequence[Answered]) -> tuple[list[float], dict[str, list[float]]]:
        given = [reward(one.answer) for one in done]
        return given, {"spaces": given}

    with tempfile.TemporaryDirectory() as folder:
        rollout = Rollout(group=group, max_new_tokens=new, epochs=epochs)
        setting = Setting(len(steps[0]), 64, 1024, 0, Path(folder), "bench", rollout)
        cast = Cast(model, mesh, lambda: model)
        stream = Watched(objective, prompts, rewards, cast, renderer, setting, mesh, lambda line: None)
        stream.clock = Clock()
        task = Task("bench", objective, stream.start(0))
        measured = loop(model, settings, task, len(steps), 64, stream.clock, epochs)
    return replace(measured, tokens=[group * new * len(step) for step in steps])
