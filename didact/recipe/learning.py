"""The stages of gradient descent: data and objectives, what is trained, and for how long."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from didact.data.settings import Data
from didact.engine.settings import Training, Turn
from didact.recipe.stage import Name, Stage, misplaced
from didact.settings import Settings


def _objective(text: str) -> str:
    """Ours are plain words; a user's own is an import path."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?", text):
        raise ValueError(f"an objective is a name or an import path such as my_module:MyObjective, got {text[:80]!r}")
    return text


class ObjectiveSpec(Settings):
    """Which objective, and its fields; ``causal`` and ``{causal: {...}}`` are accepted in its place.

    ``didact.objective.resolve(name, options)`` makes it an object; reading a recipe does not.
    """

    name: Annotated[str, AfterValidator(_objective)]
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts a name, an import path, and a mapping of one such key to the objective's fields."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            name, options = next(iter(value.items()))
            return {"name": name, "options": {} if options is None else options}
        return value


class TaskSpec(Turn):
    """One part of a mixture: data, objective, when it is trained and how much its loss counts."""

    data: Data
    objective: ObjectiveSpec
    name: Name = Field(default_factory=lambda given: given["objective"].name.rpartition(":")[2])


class Taught(Stage):
    """What is learned from what: ``data`` and one ``objective``, or a mixture of ``tasks``."""

    data: Data | None = None
    tasks: tuple[TaskSpec, ...] = ()
    objective: ObjectiveSpec | None = None
    heldout: Data | None = None

    @model_validator(mode="after")
    def one_way(self) -> "Taught":
        """Says when neither or both ways of giving the data are used."""
        if not self.tasks and self.data is None:
            raise ValueError("missing key 'data' (or 'tasks' for a mixture)")
        if self.tasks and (self.data or self.objective):
            raise misplaced("give 'tasks' or 'data' and 'objective', not both", "tasks")
        names = [task.name for task in self.tasks]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise misplaced(f"two tasks are named {name!r}; give one a 'name' of its own", "tasks", i)
        if self.tasks and not any(task.phase[1] == 1 for task in self.tasks):
            raise misplaced("no task's phase lasts to the end of the stage", "tasks")
        return self

    @property
    def task_list(self) -> tuple[TaskSpec, ...]:
        """The mixture; a mixture of one when ``data`` and ``objective`` are given."""
        if self.data is None or self.objective is None:
            return self.tasks
        return (TaskSpec(data=self.data, objective=self.objective),)

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        mixture: dict[tuple[str | int, ...], Data] = {("tasks", i, "data"): t.data for i, t in enumerate(self.tasks)}
        return mixture | super().inputs()


def usual(name: str) -> Any:
    """The objective of a stage that says none, unless it has tasks that each say their own."""
    return Field(default_factory=lambda given: None if given["tasks"] else ObjectiveSpec(name=name))


class Learning(Training, Taught):
    """A stage of gradient descent.

    ``forgetting`` measures general text before and after, as bits per byte: a few thousand tokens of the language
    reference, or all of ``general``.
    """

    incidental = Stage.incidental | Training.incidental
    forgetting: bool = False
    general: Data | None = None


class Pretrain(Learning):
    """Learns from documents: every token is trained, rows are filled to the brim."""

    kind = "pretrain"
    objective: ObjectiveSpec | None = usual("causal")


class Finetune(Learning):
    """Learns from conversations: one epoch unless a length is given, whole examples only.

    The learning rate is 1e-5, or 2e-4 when a LoRA is trained: its B starts at zero and bears a larger step.
    """

    kind = "finetune"
    objective: ObjectiveSpec | None = usual("sft")
    forgetting: bool = True
    overlong: Literal["drop", "window"] = "drop"
    learning_rate: float = Field(default_factory=lambda given: 2e-4 if given["tune"].what == "lora" else 1e-5, gt=0)
