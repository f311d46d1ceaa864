"""A stage's own prompts, answered by a toy for made-up rewards: what the laws are measured on where a model acts."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from didact.data.settings import Data
from didact.data.source import examples
from didact.engine.mesh import Mesh
from didact.model.model import Model
from didact.objective.policy import Policy
from didact.rollout.cast import Cast, without_dropout
from didact.rollout.experience import Experience, Setting
from didact.rollout.prompts import prompt
from didact.rollout.reward.base import Answered
from didact.rollout.settings import Rollout
from didact.run.life import Life
from didact.text.render import Renderer

PROMPTS, LONGEST = 24, 20  # prompts, and tokens of one
GROUP, ANSWER = 3, 6  # answers, and tokens of one


def acted(
    objective: Policy,
    task: str,
    data: Data,
    life: Life,
    renderer: Renderer,
    model: Model,
    mesh: Mesh,
    folder: Path,
    batch_size: int,
    seed: int,
) -> Experience:
    """The stream of a task at toy size; phases of two steps."""
    without_dropout(model)
    records = (one for source in examples(data, life.outputs, seed) for one in source.records())
    asked = [prompt(where, record, renderer) for where, record in islice(records, PROMPTS)]
    short = [replace(one, tokens=one.tokens[-LONGEST:]) for one in asked]
    rollout = Rollout(group=GROUP, prompts=2 * batch_size, max_new_tokens=ANSWER, slots=8)
    setting = Setting(batch_size, 1, LONGEST + ANSWER + 2, seed, folder, task, rollout)
    told = objective.acting(ANSWER, rollout.temperature, ("made_up",))
    return Experience(told, short, _made_up, Cast(model, mesh, lambda: model), renderer, setting, mesh, _unsaid)


def _made_up(done: Sequence[Answered]) -> tuple[list[float], dict[str, list[float]]]:
    """A number out of an answer's letters."""
    values = [zlib.crc32(one.answer.encode()) / 2**32 for one in done]
    return values, {"made_up": values}


def _unsaid(line: str) -> None:
    """What the toy says."""
