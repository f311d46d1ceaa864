"""What a recipe names by a word, or by an import path where it is a user's own, made with its options."""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from didact.errors import UsageProblem

T = TypeVar("T")


def make(what: str, name: str, options: Mapping[str, Any], known: Mapping[str, type[T]], base: type[T]) -> T:
    """An instance of ``known[name]``, or of the class at ``module:Class``, a dataclass derived from ``base``.

    ``what`` is the kind of thing in words. Raises UsageProblem for a name, an option or a path that leads nowhere.
    """
    kind = _imported(what, name, base) if ":" in name else known.get(name)
    if kind is None:
        near = get_close_matches(name, known, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UsageProblem(f"unknown {what} {name!r}", remedy=remedy)
    fields_of: Any = fields(kind)  # type: ignore[arg-type]
    settable = [field.name for field in fields_of if "bound" not in field.metadata]
    for option in options:
        if option not in settable:
            remedy = f"it has {', '.join(settable) or 'none'}"
            raise UsageProblem(f"{what} {name!r} has no option {option!r}", remedy=remedy)
    return kind(**options)


def _imported(what: str, path: str, base: type[T]) -> type[T]:
    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageProblem(f"cannot import {what} {path!r}: {error}", remedy="write it as module:Class") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UsageProblem(f"{path!r} is not an {base.__name__}", remedy=f"derive it from {base.__module__}")
    return kind
