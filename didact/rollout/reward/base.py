"""What a reward is: answers to prompts in, one number each out, and what is wrong where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import Field, model_validator

from didact.data.example import Message
from didact.data.settings import Data
from didact.data.words import brief
from didact.errors import DataProblem, Problem
from didact.settings import Settings


@dataclass(frozen=True)
class Answered:
    """An answer to the prompt of a record.

    ``record`` has the fields of the data (an answer key, tests, passages), ``where`` says where it is from, and
    ``finished`` that the answer ended by itself.
    """

    prompt: tuple[Message, ...]
    answer: str
    record: Mapping[str, Any]
    finished: bool = True
    where: str = ""

    def field(self, name: str) -> Any:
        """A field of the record. Raises DataProblem where it has none of that name."""
        if name not in self.record:
            known = ", ".join(sorted(self.record)) or "none"
            remedy = f"it has {known}; name one of these in the recipe, or add it to the data"
            raise DataProblem(f"the record has no field {name!r}", where=self.where, remedy=remedy)
        return self.record[name]


class Reward(Protocol):
    """Anything with a name that says what answers are worth, one number each."""

    @property
    def name(self) -> str:
        """What it is called in the metrics."""
        ...

    def __call__(self, done: Sequence[Answered]) -> list[float]:
        """What each answer is worth."""
        ...


class Models(Protocol):
    """Opens models for the rewards that need one, by what a recipe calls them; ``didact.run.rewards.Shelf``."""

    def classifiers(self, name: str) -> Sequence[Any]:
        """A reward model and those of its ensemble, each a ``didact.model.classifier.Classifier``.

        Raises GateFailed for one that is no better than chance.
        """
        ...

    def file(self, name: str) -> Path:
        """A file that an earlier stage left, or one by its path."""
        ...

    def language(self, name: str) -> tuple[Any, Any]:
        """A ``didact.model.model.Model`` and the ``Renderer`` that reads text for it."""
        ...


class Rewarding(Settings):
    """How a recipe names a reward: ``{kind: {...}}``, or ``{kind: x}`` where x is its ``first`` field.

    A ``weight`` of 0 holds it out: it is measured and never learned from.
    """

    kind: ClassVar[str]
    first: ClassVar[str]
    weight: float = 1.0
    name: str = Field(default="", description="in the metrics; its kind unless given")

    @model_validator(mode="before")
    @classmethod
    def one_key(cls, value: Any) -> Any:
        """Accepts ``{kind: {...}}`` and ``{kind: x}``."""
        if isinstance(value, dict) and list(value) == [cls.kind]:
            value = {} if value[cls.kind] is None else value[cls.kind]
            return value if isinstance(value, dict) else {cls.first: value}
        return value

    def inputs(self) -> Data | None:
        """What it reads that an earlier stage may have left."""
        return None

    def open(self, models: Models) -> Reward:
        """What scores answers."""
        raise TypeError(f"{type(self).__name__} does not say how to reward")


class Rule(Rewarding):
    """A reward that looks at one answer at a time and needs no model: it is its own reward."""

    def open(self, models: Models) -> Reward:
        """Itself."""
        return self

    def __call__(self, done: Sequence[Answered]) -> list[float]:
        """What each answer is worth."""
        return [self.score(one) for one in done]

    def score(self, one: Answered) -> float:
        """What one answer is worth."""
        raise TypeError(f"{type(self).__name__} does not say what an answer is worth")


def scores(reward: Reward, done: Sequence[Answered]) -> list[float]:
    """What each answer is worth.

    Raises DataProblem, naming the record, where the reward fails or gives anything but one finite number an answer.
    """
    try:
        given = list(reward(done))
    except Problem:
        raise
    except Exception as error:  # a person's own function may raise anything
        return [_alone(reward, one) for one in done] if len(done) > 1 else [_failed(reward, done, error)]
    if len(given) != len(done):
        raise DataProblem(f"reward {reward.name!r} gave {len(given)} numbers for {len(done)} answers")
    for one, value in zip(done, given, strict=True):
        if isinstance(value, Real) and isfinite(value):  # numpy's numbers are such, too
            continue
        what = f"reward {reward.name!r} gave {value!r} for this record's answer {one.answer[:60]!r}"
        raise DataProblem(
            what, where=one.where, remedy="a reward is one finite number; mend it or leave the record out"
        )
    return [float(value) for value in given]


def _alone(reward: Reward, one: Answered) -> float:
    """The reward of one answer by itself, to find the one on which it fails."""
    return scores(reward, [one])[0]


def _failed(reward: Reward, done: Sequence[Answered], error: Exception) -> float:
    what = f"reward {reward.name!r} failed on this record ({type(error).__name__}: {brief(error)})"
    where = done[0].where if done else ""
    raise DataProblem(what, where=where, remedy="mend the reward, or leave the record out") from error
