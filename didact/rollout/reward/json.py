"""Whether an answer is JSON, and of the shape that is wanted."""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from didact.rollout.reward.base import Answered, Rule

FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: (type(value) is int) or (isinstance(value, float) and value.is_integer()),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
# Each keyword of a schema says no to a value it is about; (value, what the keyword says) -> bool.
KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda value, given: any(TYPES[each](value) for each in (given if isinstance(given, list) else [given])),
    "enum": lambda value, given: any(same(value, each) for each in given),
    "const": lambda value, given: same(value, given),
    "properties": lambda value, given: (
        not isinstance(value, dict) or all(fits(value[name], given[name]) for name in given if name in value)
    ),
    "required": lambda value, given: not isinstance(value, dict) or all(name in value for name in given),
    "items": lambda value, given: not isinstance(value, list) or all(fits(item, given) for item in value),
    "minItems": lambda value, given: not isinstance(value, list) or len(value) >= given,
    "maxItems": lambda value, given: not isinstance(value, list) or len(value) <= given,
    "minLength": lambda value, given: not isinstance(value, str) or len(value) >= given,
    "maxLength": lambda value, given: not isinstance(value, str) or len(value) <= given,
    "pattern": lambda value, given: not isinstance(value, str) or re.search(given, value) is not None,
    "minimum": lambda value, given: not TYPES["number"](value) or value >= given,
    "maximum": lambda value, given: not TYPES["number"](value) or value <= given,
    "anyOf": lambda value, given: any(fits(value, each) for each in given),
}
INSIDE = ("items", "additionalProperties")  # keywords that hold a schema
SILENT = ("title", "description", "$schema")


def fits(value: Any, schema: Any) -> bool:
    """Whether a value is what a JSON schema (draft 2020-12, the keywords above) says."""
    if isinstance(schema, bool):
        return schema
    if not all(KEYWORDS[name](value, given) for name, given in schema.items() if name in KEYWORDS):
        return False
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    return not isinstance(value, dict) or all(fits(value[name], more) for name in value if name not in known)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal as JSON: true is not 1, but 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


def _known(schema: Any, at: str = "matches") -> Any:
    """The schema itself; raises ValueError for a keyword that would be passed over without a word."""
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise ValueError(f"{at} is no schema; as in {{type: object, required: [name]}}")
    for name, given in schema.items():
        if name not in KEYWORDS and name not in INSIDE + SILENT:
            raise ValueError(f"{at}: the keyword {name!r} is not understood; there are {', '.join(KEYWORDS)}")
        for kind in (given if isinstance(given, list) else [given]) if name == "type" else ():
            if kind not in TYPES:
                raise ValueError(f"{at}: there is no type {kind!r}; there are {', '.join(TYPES)}")
        inner = given if name == "anyOf" else [given] if name in INSIDE else []
        inner = list(given.values()) if name == "properties" else inner
        for each in inner:
            _known(each, f"{at}.{name}")
    return schema


class Json(Rule):
    """1 where the answer is JSON (and what the schema ``matches`` says), else 0."""

    kind = "json"
    first = "matches"
    matches: Annotated[dict[str, JsonValue], AfterValidator(_known)] | None = Field(
        default=None, description="a JSON schema, or a common part of it"
    )
    fenced: bool = Field(default=False, description="read what stands between ``` and ```, the first such")

    def score(self, one: Answered) -> float:
        """1 or 0; NaN and Infinity are no JSON, nor is a name that an object has twice."""
        try:
            text = _fence(one.answer) if self.fenced else one.answer
            value = json.loads(text, parse_constant=_refused, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            return 0.0
        return float(self.matches is None or fits(value, self.matches))


def _fence(answer: str) -> str:
    match = FENCE.search(answer)
    return match[1] if match else ""


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
