"""How a recipe says what to measure of a model, and what is expected to come of a comparison."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, TypeAdapter, model_validator

from didact.data.settings import Data
from didact.recipe.rewarding import Rewards, read_by
from didact.settings import Settings

REWARDS: TypeAdapter[Any] = TypeAdapter(Rewards)

TERM = re.compile(r"(?P<arm>[A-Za-z0-9][\w.-]*)(?:\s*\*\s*(?P<factor>\d+(?:\.\d+)?))?")
SIGN = re.compile(r"(<=|>=|<|>)")


class MeasureSpec(Settings):
    """One number to take of a model: ``{recall: {data: corpus/pairs.heldout, k: 10}}``.

    ``kind`` is one of ``didact.measure.NAMES`` or a user's own ``module:Class``; ``options`` are its fields.
    ``limit`` keeps that many examples, chosen by the recipe's seed.
    """

    kind: str
    data: Data
    limit: int | None = Field(default=None, gt=0)
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts a mapping of the kind to all the rest."""
        if not (isinstance(value, dict) and len(value) == 1 and "kind" not in value):
            return value
        kind, given = next(iter(value.items()))
        if not isinstance(given, dict):
            return {"kind": kind, "data": given}
        own = {name: item for name, item in given.items() if name in ("data", "limit")}
        return {"kind": kind, **own, "options": {name: item for name, item in given.items() if name not in own}}

    @model_validator(mode="after")
    def rewards_known(self) -> "MeasureSpec":
        """The rewards of a win rate are read with the recipe."""
        if self.kind == "win_rate":
            REWARDS.validate_python(self.options.get("rewards", []))
        return self

    def models(self) -> list[str]:
        """The models it asks besides the one it measures, by name."""
        asks = self.kind in ("win_rate", "preference")
        return [str(self.options[name]) for name in ("against", "judge") if asks and self.options.get(name)]

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """What it reads, by where in it that is said."""
        found: dict[tuple[str | int, ...], Data] = {("data",): self.data}
        if self.kind != "win_rate":
            return found
        judging = read_by(REWARDS.validate_python(self.options.get("rewards", [])))
        return found | {("rewards", *at): data for at, data in judging.items()}


@dataclass(frozen=True)
class Expectation:
    """``measure: arm < other * 1.02``, also in a chain: what must hold in every seed of a comparison."""

    measure: str
    terms: tuple[tuple[str, float], ...]
    signs: tuple[str, ...]

    def holds(self, numbers: dict[str, float]) -> bool:
        """Whether it does for one number an arm; a number that is none holds nothing."""
        values = [numbers[arm] * factor for arm, factor in self.terms]
        compare = {
            "<": lambda a, b: a < b,
            ">": lambda a, b: a > b,
            "<=": lambda a, b: a <= b,
            ">=": lambda a, b: a >= b,
        }
        return all(compare[sign](a, b) for sign, (a, b) in zip(self.signs, pairwise(values), strict=True))


def expectation(text: str) -> Expectation:
    """Reads one; raises ValueError for text that is none."""
    measure, colon, rest = text.partition(":")
    parts = [part.strip() for part in SIGN.split(rest)]
    found = [TERM.fullmatch(part) for part in parts[::2]]
    if not colon or len(parts) < 3 or not all(found):
        raise ValueError(f"an expectation is 'measure: arm < arm' or 'measure: arm < arm * 1.02', got {text[:80]!r}")
    terms = tuple((match["arm"], float(match["factor"] or 1)) for match in found if match)
    return Expectation(measure.strip(), terms, tuple(parts[1::2]))


def _readable(text: str) -> str:
    expectation(text)
    return text


Expected = Annotated[str, AfterValidator(_readable)]
