"""The JSON schema of a recipe, for editors: short forms, 100k, and the field's names marked as old."""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import IntSchema

from didact.recipe import alias
from didact.recipe.learning import Learning
from didact.recipe.rewarding import REWARDS
from didact.recipe.schema import KINDS, Compare, Recipe
from didact.recipe.stage import Stage
from didact.settings import HUMANE

Schema = dict[str, Any]


class _Generator(GenerateJsonSchema):
    def int_schema(self, schema: IntSchema) -> Schema:
        """A whole number may be written ``100k``."""
        return {"anyOf": [super().int_schema(schema), {"type": "string", "pattern": f"^{HUMANE}$"}]}


def json_schema() -> Schema:
    """A JSON schema (draft 2020-12) that the recipes ``load`` reads satisfy."""
    schema = Recipe.model_json_schema(schema_generator=_Generator)
    definitions: Schema = schema["$defs"]
    for cls in KINDS.values():
        if issubclass(cls, Learning):
            _add_old(definitions[cls.__name__], alias.STAGE)
    _add_old(schema, alias.RECIPE)
    schema["required"] = ["stages"]
    schema["allOf"] = [_either("name"), _either("base")]
    schema["properties"]["stages"]["items"] = _stage(KINDS)
    inner = {kind: cls for kind, cls in KINDS.items() if not issubclass(cls, Compare)}
    definitions["Compare"]["properties"]["arms"]["additionalProperties"]["items"] = _stage(inner)
    size = definitions["Scratch"]["properties"]["size"]
    size["type"] = ["string", "integer"]
    for kind, reward in REWARDS.items():
        if reward.__name__ in definitions:
            definitions[reward.__name__] = _reward(kind, definitions[reward.__name__])
    for name, short in _short_forms().items():
        definitions[name] = {"anyOf": [definitions[name], *short]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _stage(kinds: Mapping[str, type[Stage]]) -> Schema:
    """A mapping of one key, the kind."""
    return {
        "type": "object",
        "properties": {kind: _or_null(cls.__name__) for kind, cls in kinds.items()},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _reward(kind: str, full: Schema) -> Schema:
    """A mapping of one key, the kind, to all the fields or to the first alone."""
    value = {"anyOf": [full, {"type": "string"}, {"type": "null"}]}
    return {"type": "object", "properties": {kind: value}, "required": [kind], "additionalProperties": False}


def _or_null(name: str) -> Schema:
    return {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}


def _either(name: str) -> Schema:
    """The key or one of its old names must be there."""
    return {
        "anyOf": [{"required": [key]} for key in (name, *(old for old, new in alias.RECIPE.items() if new == name))]
    }


def _add_old(schema: Schema, table: dict[str, alias.Meaning]) -> None:
    for old, meaning in table.items():
        note = f"read as {meaning}" if isinstance(meaning, str) else "translated when read"
        schema["properties"][old] = {"description": note, "deprecated": True}


def _short_forms() -> dict[str, list[Schema]]:
    """What the validators of the settings classes accept besides the full mapping."""
    source = {"$ref": "#/$defs/Source"}
    text = {"type": "string", "minLength": 1}
    return {
        "Source": [text],
        "Data": [source, {"type": "array", "items": source, "minItems": 1}],
        "Tune": [{"enum": ["all", "head", "lora"]}],
        "ObjectiveSpec": [
            text,
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": {"type": ["object", "null"]},
            },
        ],
        "Lora": [{"type": "null"}],
        "MeasureSpec": [{"type": "object", "minProperties": 1, "maxProperties": 1}],
    }
