"""Objectives: one short file an equation."""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from didact.errors import UsageProblem
from didact.objective.base import Objective
from didact.objective.masked import Masked
from didact.objective.tokens import Causal, Prefix

NAMES: dict[str, type[Objective]] = {"causal": Causal, "sft": Causal, "prefix": Prefix, "masked": Masked}


def resolve(name: str, options: Mapping[str, Any]) -> Objective:
    """The objective a recipe names: one of ``NAMES``, or a user's own as ``module:Class``."""
    kind = _imported(name) if ":" in name else NAMES.get(name)
    if kind is None:
        near = get_close_matches(name, NAMES, 1)
        raise UsageProblem(
            f"unknown objective {name!r}", remedy=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMES)}"
        )
    known = [field.name for field in fields(kind) if field.name != "vocabulary"]
    for option in options:
        if option not in known:
            raise UsageProblem(
                f"objective {name!r} has no option {option!r}", remedy=f"it has {', '.join(known) or 'none'}"
            )
    return kind(**options)


def _imported(path: str) -> type[Objective]:
    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageProblem(f"cannot import objective {path!r}: {error}", remedy="write it as module:Class") from error
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise UsageProblem(f"{path!r} is not an Objective", remedy="derive it from didact.objective.Objective")
    return kind
