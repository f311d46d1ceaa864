"""What pydantic found wrong, as one line a user can act on."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from didact.engine.settings import Training
from didact.errors import UsageProblem
from didact.recipe import alias
from didact.recipe.learning import Learning
from didact.recipe.rewarding import REWARDS
from didact.recipe.schema import KINDS, Recipe
from didact.recipe.tree import Spot, Tree
from didact.rollout.reward.base import Rewarding
from didact.settings import Settings

Told = tuple[str, str]
"""What is wrong, and the remedy."""

WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
    "too_long": "at most {max_length} values",
}
REMEDY = {
    "int_parsing": "as in 100000, 100k or 1.5M",
    "string_type": "put it in quotes to make it text",
    "list_type": "write [a, b]",
    "tuple_type": "write [a, b]",
}
LATE = {"default_factory_not_called", "missing", "too_short"}
"""Errors that another one usually explains: a misspelt key is also a missing one."""


def complaint(error: ValidationError, tree: Tree) -> UsageProblem:
    """The mistake most worth saying first, with the place the user wrote it at."""
    errors = sorted(error.errors(include_url=False), key=_rank)
    first = errors[0]
    loc: Spot = (*first["loc"], *first.get("ctx", {}).get("at", ()))
    what, remedy = TOLD.get(first["type"], _told_wanted)(first, loc, tree)
    return UsageProblem(what, where=tree.place(tree.find(loc)), remedy=remedy)


def _rank(error: Any) -> int:
    return 2 if error["type"] == "default_factory_not_called" else int(error["type"] in LATE)


def show(value: Any) -> str:
    """A value as it fits in one line."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:57]!r}..."
    if isinstance(value, dict | list | tuple) and len(repr(value)) > 60:
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)[:60]


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("-", "_")[:80], folded, n=1, cutoff=cutoff)
    return folded[found[0]] if found else None


def did_you_mean(word: str | None, otherwise: str = "") -> str:
    """The remedy for a misspelling."""
    return f"did you mean {word!r}?" if word else otherwise


def _told_unknown(error: Any, loc: Spot, tree: Tree) -> Told:
    key, owner = str(loc[-1]), _owner(loc)
    familiar: dict[str, Any] = {}
    if owner is Recipe:
        familiar = alias.RECIPE
    elif issubclass(owner, Learning):
        familiar = alias.STAGE
    what = f"unknown key {key[:80]!r} in {_within(tree.find(loc)[:-1], tree)}"
    if owner is Recipe and key in {**Training.model_fields, **alias.STAGE}:
        return what, "it belongs in a stage, as in - finetune: {...}"
    meant = near(key, [*owner.model_fields, *familiar])
    ours = familiar.get(str(meant), meant)
    few = f"it takes {', '.join(owner.model_fields)}" if len(owner.model_fields) <= 12 else ""
    return what, did_you_mean(meant if callable(ours) else ours, few or "'didact schema' lists the keys")


def _told_missing(error: Any, loc: Spot, tree: Tree) -> Told:
    above = tree.find(loc)
    if isinstance(loc[-1], int):
        return f"{_called(above, tree)}: wanted another value after {loc[-1]}", ""
    return f"missing key {loc[-1]!r} in {_within(above, tree)}", f"add '{loc[-1]}: ...'"


def _told_short(error: Any, loc: Spot, tree: Tree) -> Told:
    return f"{_called(tree.find(loc), tree)}: wanted at least {error['ctx']['min_length']}, got none", ""


def _told_kind(error: Any, loc: Spot, tree: Tree) -> Told:
    kind = str(next(iter(error["input"])))
    kinds = ", ".join(KINDS)
    return f"unknown stage {kind[:60]!r}", did_you_mean(near(kind, KINDS), f"there are {kinds}")


def _told_shape(error: Any, loc: Spot, tree: Tree) -> Told:
    given = error["input"]
    what = f"a stage is a mapping of one key, got {show(given)}"
    if isinstance(given, dict) and given and next(iter(given)) in KINDS:
        return what, f"indent what follows '{next(iter(given))}:' under it"
    word = given if isinstance(given, str) and given in KINDS else "pretrain"
    return what, f"write - {word}: {{...}}"


def _told_own(error: Any, loc: Spot, tree: Tree) -> Told:
    """Messages of our own validators, which name a remedy where they have one."""
    own = error.get("ctx", {})
    what, _, remedy = str(own.get("what") or own.get("error") or error["msg"]).partition("; ")
    return f"{_called(tree.find(loc), tree)}: {what}", remedy


def _told_wanted(error: Any, loc: Spot, tree: Tree) -> Told:
    context = error.get("ctx", {})
    wanted = WANTED[error["type"]].format(**context) if error["type"] in WANTED else ""
    what = f"wanted {wanted}, got {show(error['input'])}" if wanted else error["msg"]
    remedy = REMEDY.get(error["type"], "")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        remedy = did_you_mean(near(error["input"], re.findall(r"'([^']*)'", context["expected"]), cutoff=0.7))
    return f"{_called(tree.find(loc), tree)}: {what}", remedy


TOLD: dict[str, Callable[[Any, Spot, Tree], Told]] = {
    "extra_forbidden": _told_unknown,
    "missing": _told_missing,
    "too_short": _told_short,
    "union_tag_invalid": _told_kind,
    "union_tag_not_found": _told_shape,
    "recipe": _told_own,
    "value_error": _told_own,
}


def _owner(loc: Spot) -> type[BaseModel]:
    """The settings class that the last part of ``loc`` is a key of."""
    owner: type[BaseModel] = Recipe
    for before, part in zip((None, *loc), loc[:-1], strict=False):
        if owner is Recipe and part in KINDS:
            owner = KINDS[str(part)]
        elif issubclass(owner, Rewarding) and isinstance(before, int):
            owner = REWARDS[str(part)]
        elif part in owner.model_fields and part != "stages":
            owner = _settings(owner.model_fields[str(part)].annotation) or owner
    return owner


def _settings(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside ``tuple[X, ...]``, ``dict[str, X]``, ``X | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(_settings, get_args(annotation))), None)


def _stage(spot: Spot, tree: Tree) -> tuple[str, Spot]:
    """The stage's name, and the part of ``spot`` inside it; no name outside of stages."""
    if len(spot) < 3 or spot[0] != "stages":
        return "", spot
    body = tree.at(spot[:3])
    name = body.get("name") if isinstance(body, dict) else None
    return (name if isinstance(name, str) and name else str(spot[2])), spot[3:]


def _within(spot: Spot, tree: Tree) -> str:
    name, rest = _stage(spot, tree)
    inner = repr(".".join(map(str, rest))) if rest else ""
    if not name:
        return inner or "the recipe"
    return f"{inner} of stage {name!r}" if inner else f"stage {name!r}"


def _called(spot: Spot, tree: Tree) -> str:
    name, rest = _stage(spot, tree)
    inner = repr(".".join(map(str, rest))) if rest else ""
    if not name:
        return inner or "the recipe"
    return f"{inner} in stage {name!r}" if inner else f"stage {name!r}"
