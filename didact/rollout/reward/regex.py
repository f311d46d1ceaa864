"""Whether an answer has a pattern, or what the record says it should be."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from didact.errors import DataProblem
from didact.rollout.reward.base import Answered, Rule

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
CLOSE = 1e-6  # relative, of numbers that count as equal


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from None
    return text


class Regex(Rule):
    """1 where ``pattern`` is found, else 0; ``.`` also matches the end of a line.

    ``equals`` names a field of the record: then the last match (its first group, where it has one) must be what the
    field says, and without a pattern the answer itself, or, ``numeric``, the last number in it.
    """

    kind = "regex"
    first = "pattern"
    pattern: Annotated[str, AfterValidator(_compiles)] | None = Field(default=None)
    equals: str | None = Field(default=None, description="field of the record, such as answer")
    numeric: bool = Field(default=False, description="compare as numbers: 1,000 is 1000.0")
    whole: bool = Field(default=False, description="the pattern must match the answer from beginning to end")

    @model_validator(mode="after")
    def looks(self) -> "Regex":
        """Something to look for."""
        if self.pattern is None and self.equals is None:
            raise ValueError("regex needs a 'pattern', or 'equals' with a field of the record; as in equals: answer")
        if self.numeric and self.equals is None:
            raise ValueError("numeric compares with a field of the record; add 'equals: answer'")
        return self

    def score(self, one: Answered) -> float:
        """1 or 0."""
        said = self._said(one.answer)
        if said is None or self.equals is None:
            return float(said is not None)
        wanted = one.field(self.equals)
        if not self.numeric:
            return float(said.strip() == str(wanted).strip())
        right = number(wanted)
        if right is None:
            what = f"its field {self.equals!r} is {str(wanted)[:60]!r}, which has no number"
            raise DataProblem(what, where=one.where, remedy="leave numeric out, or mend the record")
        found = number(said)
        return float(found is not None and abs(found - right) <= CLOSE * max(1.0, abs(right)))

    def _said(self, answer: str) -> str | None:
        """What counts of the answer, None where the pattern is not in it."""
        if self.pattern is None:
            return answer
        if self.whole:
            match = re.fullmatch(self.pattern, answer.strip(), re.DOTALL)
            return None if match is None else _caught(match)
        found = list(re.finditer(self.pattern, answer, re.DOTALL))
        return _caught(found[-1]) if found else None


def _caught(match: "re.Match[str]") -> str:
    return (match[1] or "") if match.re.groups else match[0]


def number(value: Any) -> float | None:
    """The number, or the last one in a text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = NUMBER.findall(str(value))
    return float(found[-1].replace(",", "")) if found else None
