"""What a measure is: a model and examples in, one number out, and which way is better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from didact.engine.mesh import Mesh
from didact.model.model import Model
from didact.text.render import Renderer


@dataclass(frozen=True)
class Subject:
    """The model that is measured, in evaluation mode, and what reads text for it.

    ``named`` opens another model by what a recipe calls it, ``models`` those that rewards ask for, ``say`` tells more
    than the one number.
    """

    model: Model
    renderer: Renderer
    mesh: Mesh
    seed: int = 0
    named: Callable[[str], tuple[Model, Renderer]] | None = None
    models: Any = None
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Measure:
    """The base of every measure; its fields are its options.

    One that says ``records`` is given the data's records as they stand, ``(where, record)``, in place of examples.
    """

    unit: ClassVar[str]
    better: ClassVar[Literal["lower", "higher"]]
    records: ClassVar[bool] = False

    def __call__(self, subject: Subject, examples: Sequence[Any]) -> float:
        """The number, the same on every process."""
        raise TypeError(f"{type(self).__name__} does not say how to measure")
