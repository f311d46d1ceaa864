"""What a recipe names by a word, or by an import path where it is a user's own, made with its options."""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

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
    return kind(
        **{option: _typed(f"{option} of {what} {name!r}", value, kind, option) for option, value in options.items()}
    )


def _typed(what: str, value: Any, kind: type, option: str) -> Any:
    """An option's value as what its field is declared to be: YAML reads 1e-3 as text. Raises UsageProblem."""
    wanted = TypeAdapter(get_type_hints(kind)[option], config=ConfigDict(arbitrary_types_allowed=True))
    try:
        return wanted.validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise UsageProblem(f"{what} is {str(value)[:60]!r}: {said[0].lower()}{said[1:]}") from error


def _imported(what: str, path: str, base: type[T]) -> type[T]:
    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageProblem(f"cannot import {what} {path!r}: {error}", remedy="write it as module:Class") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UsageProblem(f"{path!r} is not an {base.__name__}", remedy=f"derive it from {base.__module__}")
    return kind
