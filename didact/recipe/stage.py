"""What every stage of a life has: a name, a seed, data it reads and leaves, and a digest of all that decides."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from didact.data.settings import Data
from didact.settings import Settings


def misplaced(what: str, *at: str | int) -> PydanticCustomError:
    """A mistake found while looking at a whole, and where in it the user wrote the part to mend."""
    return PydanticCustomError("recipe", "{what}", {"what": what, "at": list(at)})


def plain_name(text: str) -> str:
    """Names become folders and ``stage/output`` references, on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) or text.endswith("."):
        raise ValueError(f"a name is up to 64 letters, digits, '.', '_' and '-', got {text[:80]!r}")
    return text


Name = Annotated[str, AfterValidator(plain_name)]


class Stage(Settings):
    """What every stage has: a name (its kind unless given) and a seed (the recipe's unless given)."""

    kind: ClassVar[str]
    incidental: ClassVar[frozenset[str]] = frozenset({"name"})
    also: ClassVar[frozenset[str]] = frozenset()  # suffixes of files it reads besides those that hold examples
    name: Annotated[str, AfterValidator(lambda text: text and plain_name(text))] = ""
    seed: int = Field(default=0, ge=0, description="the recipe's unless given")

    @model_validator(mode="before")
    @classmethod
    def one_key(cls, value: Any) -> Any:
        """Accepts ``{kind: {...}}``, the form of a recipe, and ``{kind: null}`` for all defaults."""
        if isinstance(value, dict) and list(value) == [cls.kind]:
            return {} if value[cls.kind] is None else value[cls.kind]
        return value

    @property
    def outputs(self) -> tuple[str, ...]:
        """The data a later stage may name as ``stage/output``."""
        return ()

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {(name,): value for name, value in fields if isinstance(value, Data)}


def stage_names(given: Sequence[tuple[str, str]]) -> list[str]:
    """Names for stages of which each (kind, name) is known; an empty name becomes ``pretrain``, ``pretrain-2``, ..."""
    taken = {name for _, name in given if name}
    names = []
    for kind, name in given:
        tries = (kind if n == 1 else f"{kind}-{n}" for n in range(1, len(given) + len(taken) + 2))
        names.append(name or next(t for t in tries if t not in taken))
        taken.add(names[-1])
    return names


def stage_digest(stage: Stage) -> str:
    """SHA-256 of all that decides a stage's outcome: its kind and fields, but the name and the incidental ones."""
    fields = stage.model_dump(mode="json", exclude=set(stage.incidental))
    text = json.dumps({stage.kind: fields}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
