"""What simulated people think of an answer: the mean of what it is worth to each of them, before any error."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import orjson
from pydantic import Field

from didact.data.settings import Data
from didact.data.words import brief
from didact.errors import DataProblem
from didact.feedback.crowd import Member, member
from didact.rollout.reward.base import Answered, Models, Reward, Rewarding


class People(Rewarding):
    """What the ``people`` of a stage ``crowd`` want of an answer, such as those of ``crowd/people.heldout``."""

    kind = "crowd"
    first = "people"
    people: str = Field(min_length=1)

    def inputs(self) -> Data | None:
        """Who they are."""
        return Data.model_validate(self.people)

    def open(self, models: Models) -> Reward:
        """The people, with what each of them wants."""
        place = models.file(self.people)
        lines = enumerate(place.read_bytes().splitlines(), 1)
        found = [_member(f"{place}:{number}", line) for number, line in lines if line.strip()]
        if not found:
            raise DataProblem("nobody stands there", where=str(place), remedy="name the people of a stage crowd")
        return Wanted(self.name or self.kind, found)


def _member(where: str, line: bytes) -> Member:
    try:
        return member(orjson.loads(line))
    except (ValueError, TypeError) as error:
        remedy = "name the people of a stage crowd, as crowd/people.heldout"
        raise DataProblem(f"this is nobody of a crowd ({brief(error)})", where=where, remedy=remedy) from error


class Wanted:
    """Scores answers by what they are worth to members."""

    def __init__(self, name: str, members: Sequence[Member]):
        self.name, self.members = name, members

    def __call__(self, done: Sequence[Answered]) -> list[float]:
        """What each answer is worth to them, on average."""
        return [fmean(one.worth(each.answer, reference(each.record)) for one in self.members) for each in done]


def reference(record: Mapping[str, Any]) -> str:
    """The answer that a record itself gives, empty where it gives none."""
    match record:
        case {"messages": [*_, {"role": "assistant", "content": str(text)}]} | {"completion": str(text)}:
            return text
        case {"completion": [*_, {"content": str(text)}]}:
            return text
    return ""
