"""The stages that measure: one model, or arms beside each other over several seeds."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from didact.data.settings import Data
from didact.recipe.measured import MeasureSpec
from didact.recipe.stage import Name, Stage, misplaced

Ceiling = Annotated[float, Field(strict=True, gt=0)]


class Evaluate(Stage):
    """Bits per byte of each set of ``data``, and what the model says to ``samples``.

    ``gate`` holds the highest bits per byte allowed for a set; a breach ends the run with exit code 7.
    """

    kind = "evaluate"
    data: dict[Name, Data] = Field(default_factory=dict)
    against: Literal["base", "none"] = Field(default="base", description="what to compare with")
    samples: tuple[str, ...] = ()
    max_new_tokens: int = Field(default=96, gt=0)
    gate: dict[str, Ceiling] = Field(default_factory=dict, description="highest bits per byte of a set")
    context: int = Field(default=1024, ge=8, description="tokens in a row")
    limit: int | None = Field(default=None, gt=0, description="examples of each set")
    measures: dict[Name, MeasureSpec] = Field(default_factory=dict, description="other numbers to take of the model")

    @model_validator(mode="after")
    def gates_known(self) -> "Evaluate":
        """A gate on a set that is not measured would never close."""
        if not self.data and not self.samples and not self.measures:
            raise ValueError("evaluate needs 'data' or 'measures' to measure, or 'samples' to answer")
        for name in self.gate:
            if name not in self.data:
                known = ", ".join(self.data) or "none"
                raise misplaced(f"the gate {name!r} names no set of 'data'; the sets are: {known}", "gate", name)
        return self

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {("data", name): data for name, data in self.data.items()} | measured(self.measures)


def measured(measures: Mapping[str, MeasureSpec]) -> dict[tuple[str | int, ...], Data]:
    """The data of measures, by where it is said."""
    return {
        ("measures", name, spec.kind, *at): data
        for name, spec in measures.items()
        for at, data in spec.inputs().items()
    }
