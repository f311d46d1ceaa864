"""How a recipe names its data."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from didact.settings import Settings

Graph = Literal["auto", "html", "markdown", "wiki", "citations", "neighbours"]
Relation = Literal["contiguous", "random", "linked"]


class Source(Settings):
    """One place to read examples from.

    ``path`` is a file, a folder, a glob, ``hub:org/name[:split]``, ``feedback[:kind][@store]``, or
    ``stage/output`` for what an earlier stage left. ``sample`` keeps that many examples, chosen by
    the recipe's seed; the short form is ``path#1000``. ``weight`` is how many times an epoch passes
    over the source: 2 reads every example twice, 0.25 a fresh random quarter each epoch.
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


class Pairing(Settings):
    """How segments of documents are paired.

    ``graph`` says what a link is; ``auto`` goes by each document's kind, ``neighbours`` needs no links but takes the
    documents most alike in their words. Pairs are of each of ``relations`` equally often; without a single link, of
    those that need none.
    """

    graph: Graph = "auto"
    relations: tuple[Relation, ...] = Field(default=("contiguous", "random", "linked"), min_length=1)
    segment: int = Field(default=800, ge=16, description="characters of a segment, at most")
    anchored: bool = Field(default=False, description="from a segment that holds a link to how the linked page begins")
    passes: int = Field(default=1, gt=0, description="pairs that each segment begins")
    neighbours: int = Field(default=5, gt=0, description="of each document, for graph: neighbours")
    holdout: float = Field(default=0.1, ge=0, lt=1, description="share of documents never trained on")

    @field_validator("relations")
    @classmethod
    def distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """A relation named twice would be drawn twice as often."""
        if len(set(value)) < len(value):
            raise ValueError(f"each relation counts once, got {list(value)}")
        return value
