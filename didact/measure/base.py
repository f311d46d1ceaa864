"""What a measure is: a model and examples in, one number out, and which way is better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from didact.data.example import Example
from didact.engine.mesh import Mesh
from didact.model.model import Model
from didact.text.render import Renderer


@dataclass(frozen=True)
class Subject:
    """The model that is measured, in evaluation mode, and what reads text for it."""

    model: Model
    renderer: Renderer
    mesh: Mesh
    seed: int = 0


@dataclass(frozen=True)
class Measure:
    """The base of every measure; its fields are its options."""

    unit: ClassVar[str]
    better: ClassVar[Literal["lower", "higher"]]

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """The number, the same on every process."""
        raise TypeError(f"{type(self).__name__} does not say how to measure")
