"""How a recipe says what answers are worth: the stage that learns it, and the list of a stage that learns from it.

As in ``rewards: [{regex: {...}}, {function: my_module:f, weight: 0.5}]``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from didact.data.settings import Data
from didact.recipe.learning import Learning, ObjectiveSpec, usual
from didact.recipe.stage import misplaced, stage_names
from didact.rollout.reward.base import Rewarding
from didact.rollout.reward.crowd import People
from didact.rollout.reward.faithful import Faithful
from didact.rollout.reward.function import Function
from didact.rollout.reward.json import Json
from didact.rollout.reward.judge import Judge
from didact.rollout.reward.model import Model
from didact.rollout.reward.regex import Regex
from didact.rollout.reward.tests import Tests

REWARDS: dict[str, type[Rewarding]] = {
    cls.kind: cls for cls in (Regex, Function, Json, Tests, Model, Judge, Faithful, People)
}


class RewardModel(Learning):
    """Learns what answers are worth to people from rankings, pairs or ratings, and leaves a model that says so.

    Where no ``heldout`` is given, ``holdout`` is the share of prompts to measure on; ``people`` is the share of the
    annotators. What it leaves is ``NAME/model``; the model so far stays as it is.
    """

    kind = "reward"
    objective: ObjectiveSpec | None = usual("reward")
    overlong: Literal["drop", "window"] = "drop"
    learning_rate: float = Field(default_factory=lambda given: 2e-4 if given["tune"].what == "lora" else 1e-5, gt=0)
    holdout: float = Field(default=0.1, ge=0, lt=1, description="share of prompts, without heldout")
    people: float = Field(default=0.0, ge=0, lt=1, description="share of annotators never learned from")
    ensemble: int = Field(default=1, ge=1, description="LoRAs that learn the same, from other beginnings")

    @model_validator(mode="after")
    def alone(self) -> "RewardModel":
        """One set of judgements, one objective."""
        if self.tasks:
            raise misplaced("a reward model has no mixture; give data and objective", "tasks")
        if self.forgetting or self.general:
            key = "forgetting" if self.forgetting else "general"
            raise misplaced("a reward model writes nothing, so nothing shows what it forgets; leave it out", key)
        if self.ensemble > 1 and (self.tune.what != "lora" or self.tune.tokens):
            what = "the members of an ensemble are LoRAs on one base; say tune: lora, without new tokens"
            raise misplaced(what, "tune" if "tune" in self.model_fields_set else "ensemble")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The folder of the reward model."""
        return ("model",)


def _kind(value: Any) -> str | None:
    if isinstance(value, Rewarding):
        return value.kind
    return str(next(iter(value))) if isinstance(value, dict) and len(value) == 1 else None


_WHAT = f"a reward is a mapping of one key, which is one of {', '.join(REWARDS)}; as in - regex: {{pattern: x}}"
RewardSpec = Annotated[
    Annotated[Regex, Tag("regex")]
    | Annotated[Function, Tag("function")]
    | Annotated[Json, Tag("json")]
    | Annotated[Tests, Tag("tests")]
    | Annotated[Model, Tag("model")]
    | Annotated[Judge, Tag("judge")]
    | Annotated[People, Tag("crowd")]
    | Annotated[Faithful, Tag("faithful")],
    Discriminator(
        _kind, custom_error_type="recipe", custom_error_message="{what}", custom_error_context={"what": _WHAT}
    ),
]


def _named(specs: "tuple[Rewarding, ...]") -> "tuple[Rewarding, ...]":
    """Names each reward by its kind, or ``heldout`` where it is measured only; says where two are called the same."""
    given = [spec.name for spec in specs]
    for number, name in enumerate(given):
        if name and name in given[:number]:
            raise misplaced(f"two rewards are named {name!r}; each needs a name of its own", number)
    names = stage_names([(spec.kind if spec.weight else "heldout", spec.name) for spec in specs])
    return tuple(spec.model_copy(update={"name": name}) for spec, name in zip(specs, names, strict=True))


Rewards = Annotated[tuple[RewardSpec, ...], AfterValidator(_named), Field(description="what answers are worth")]
"""The field of a stage that learns from rewards."""


def read_by(specs: Sequence[Rewarding]) -> dict[tuple[str | int, ...], Data]:
    """What the rewards read that an earlier stage may have left, by where in the list it is said."""
    found = ((number, spec.kind, spec.first, spec.inputs()) for number, spec in enumerate(specs))
    return {(number, kind, first): data for number, kind, first, data in found if data}
