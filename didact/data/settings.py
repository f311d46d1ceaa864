"""How a recipe names its data."""

from typing import Any

from pydantic import Field, model_validator

from didact.settings import Settings


class Source(Settings):
    """One place to read examples from.

    ``path`` is a file, a folder, a glob, ``hub:org/name[:split]``, or ``stage/output`` for what an
    earlier stage left. ``sample`` keeps that many examples, chosen by the recipe's seed; the short
    form is ``path#1000``. ``weight`` is how many times an epoch passes over the source: 2 reads
    every example twice, 0.25 a fresh random quarter each epoch.
    """

    path: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    sample: int | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts ``path`` and ``path#n`` in place of a mapping."""
        if not isinstance(value, str):
            return value
        path, mark, count = value.rpartition("#")
        if mark and count.isdecimal():
            return {"path": path, "sample": int(count)}
        return {"path": value}


class Data(Settings):
    """A mixture of sources; a single string or a list is accepted in its place."""

    sources: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts a path, a list of paths, or a list of sources in place of ``sources:``."""
        if isinstance(value, dict) and "path" in value:
            return {"sources": [value]}
        if isinstance(value, str):
            return {"sources": [value]}
        if isinstance(value, list | tuple):
            return {"sources": list(value)}
        return value
