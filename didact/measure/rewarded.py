"""What a model's own answers are worth, by rewards as a stage ``reinforce`` has them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from didact.errors import UsageProblem
from didact.measure.base import Measure, Subject
from didact.model.encoder import positions
from didact.recipe.rewarding import Rewards
from didact.rng import mix
from didact.rollout.answering import answers
from didact.rollout.prompts import prompt, readable
from didact.rollout.reward.base import Answered, Rewarding, scores
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling

SLOTS = 32


@dataclass(frozen=True)
class Rewarded(Measure):
    """The mean of the weighed ``rewards`` over ``samples`` answers to each prompt, drawn at ``temperature``.

    With ``best`` it is the mean over prompts of their best answer: pass@k, where a reward is 1 or 0. A weight of 0
    counts nothing here either.
    """

    unit = "reward"
    better = "higher"
    records: ClassVar[bool] = True

    rewards: Sequence[Any] = ()
    samples: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 64
    best: bool = False

    def __post_init__(self) -> None:
        """Raises UsageProblem for rewards that are none, and for no samples."""
        if not self.rewards or self.samples < 1:
            raise UsageProblem("the measure reward has no rewards, or no samples", remedy="give rewards: [...]")
        self.specs()

    def specs(self) -> Sequence[Rewarding]:
        """The rewards as a recipe has them."""
        try:
            return TypeAdapter(Rewards).validate_json(json.dumps(self.rewards))
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise UsageProblem(f"rewards.{at}: {first['msg']}", remedy="write them as in a reinforce stage") from error

    def __call__(self, subject: Subject, examples: Sequence[tuple[str, Mapping[str, Any]]]) -> float:
        """The mean; ``examples`` are records, with where each stands. Tells its 95% interval over prompts."""
        each = self.each(subject, examples)
        mean, half = float(each.mean()), 1.96 * float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else 0.0
        subject.say(f"{mean:.3f}, 95% interval {mean - half:.3f} to {mean + half:.3f} over {len(each):,} prompts")
        return mean

    def each(self, subject: Subject, examples: Sequence[tuple[str, Mapping[str, Any]]]) -> np.ndarray:
        """What each prompt's answers are worth, [prompts]."""
        found = (prompt(where, record, subject.renderer) for where, record in examples)
        asked = readable(found, positions(subject.model.net.config))
        way = Sampling(temperature=self.temperature, top_p=1, max_new_tokens=self.max_new_tokens)
        ways = [
            [way.model_copy(update={"seed": mix(subject.seed, i, k)}) for k in range(self.samples)]
            for i in range(len(asked))
        ]
        sampler = Sampler(subject.model, subject.renderer.decode, subject.renderer.stops, SLOTS)
        outs = answers(sampler, [one.tokens for one in asked], ways)
        done = [
            Answered(one.messages, out.text, one.record, out.reason == "stop", one.where)
            for one, each in zip(asked, outs, strict=True)
            for out in each
        ]
        total = np.zeros(len(done))
        for spec in self.specs():
            if spec.weight:
                total += spec.weight * np.asarray(scores(spec.open(subject.models), done))
        worth = total.reshape(len(asked), self.samples)
        return worth.max(1) if self.best else worth.mean(1)
