"""How a recipe says what answers are worth: ``rewards: [{regex: {...}}, {function: my_module:f, weight: 0.5}]``."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from didact.data.settings import Data
from didact.recipe.stage import misplaced, stage_names
from didact.rollout.reward.base import Rewarding
from didact.rollout.reward.faithful import Faithful
from didact.rollout.reward.function import Function
from didact.rollout.reward.json import Json
from didact.rollout.reward.regex import Regex
from didact.rollout.reward.tests import Tests

REWARDS: dict[str, type[Rewarding]] = {cls.kind: cls for cls in (Regex, Function, Json, Tests, Faithful)}


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
