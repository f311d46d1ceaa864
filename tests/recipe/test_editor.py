"""The schema is checked with a validator of the few words of JSON Schema that it uses."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from didact.recipe import dump, json_schema

TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == int(v),
}


def valid(value, schema, root) -> bool:
    return all(RULES[word](value, rule, schema, root) for word, rule in schema.items())


def _properties(value, rules, schema, root):
    return not isinstance(value, dict) or all(valid(value[k], rule, root) for k, rule in rules.items() if k in value)


def _additional(value, rule, schema, root):
    if not isinstance(value, dict) or rule is True:
        return True
    others = [v for k, v in value.items() if k not in schema.get("properties", {})]
    return not others if rule is False else all(valid(v, rule, root) for v in others)


def _number(test):
    return lambda value, bound, schema, root: not TYPES["number"](value) or test(value, bound)


def _sized(kind, test):
    return lambda value, bound, schema, root: not isinstance(value, kind) or test(len(value), bound)


def _items(value, rule, schema, root):
    start = len(schema.get("prefixItems", []))
    return not isinstance(value, list) or all(valid(v, rule, root) for v in value[start:])


def _said(value, rule, schema, root):
    return True


RULES = {
    "$ref": lambda v, rule, s, root: valid(v, root["$defs"][rule.removeprefix("#/$defs/")], root),
    "type": lambda v, rule, s, root: any(TYPES[t](v) for t in ([rule] if isinstance(rule, str) else rule)),
    "anyOf": lambda v, rule, s, root: any(valid(v, r, root) for r in rule),
    "allOf": lambda v, rule, s, root: all(valid(v, r, root) for r in rule),
    "oneOf": lambda v, rule, s, root: sum(valid(v, r, root) for r in rule) == 1,
    "enum": lambda v, rule, s, root: v in rule,
    "const": lambda v, rule, s, root: v == rule,
    "pattern": lambda v, rule, s, root: not isinstance(v, str) or re.search(rule, v) is not None,
    "required": lambda v, rule, s, root: not isinstance(v, dict) or set(rule) <= set(v),
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "prefixItems": lambda v, rule, s, root: (
        not isinstance(v, list) or all(valid(a, r, root) for a, r in zip(v, rule, strict=False))
    ),
    "minimum": _number(lambda a, b: a >= b),
    "maximum": _number(lambda a, b: a <= b),
    "exclusiveMinimum": _number(lambda a, b: a > b),
    "exclusiveMaximum": _number(lambda a, b: a < b),
    "minItems": _sized(list, lambda a, b: a >= b),
    "maxItems": _sized(list, lambda a, b: a <= b),
    "minLength": _sized(str, lambda a, b: a >= b),
    "minProperties": _sized(dict, lambda a, b: a >= b),
    "maxProperties": _sized(dict, lambda a, b: a <= b),
    **dict.fromkeys(["$defs", "$schema", "title", "description", "default", "deprecated"], _said),
}


def accepted(text: str) -> bool:
    schema = json.loads(json.dumps(json_schema()))
    return valid(YAML(typ="safe", pure=True).load(text), schema, schema)


HEAD = "name: x\nbase: y\nstages:\n- finetune:\n    data: a\n"
SHORT = [
    "    tokens: 1.5B\n",
    "    tune: lora\n",
    "    tune: {lora: {rank: 3}}\n",
    "    tune: {lora: }\n",
    "    tune: {last: 3}\n",
    "    tune: {tokens: [a]}\n",
    "    tune: {tokens: {a: b}, lora: }\n",
    "    heldout: [a, {path: b, weight: 2}, c#3]\n",
    "    heldout: {path: b}\n",
    "    objective: my_module:Mine\n",
    "    objective: {causal: {x: [1]}}\n",
    "    objective: {causal: }\n",
    "    lora_r: 3\n    num_train_epochs: 3\n",
    "- pretrain: {tasks: [{data: a, objective: causal}, {name: b, data: [a], objective: {x: {}}, weight: 2}]}\n",
]


@pytest.mark.parametrize("more", SHORT)
def test_short_forms_are_accepted_as_load_accepts_them(reads, more):
    reads(HEAD + more)
    assert accepted(HEAD + more)


def test_bases_are_accepted(reads):
    stages = "stages:\n- corpus: {domain: d}\n"
    for top in (
        "name: x\nbase: {architecture: qwen3, size: 12M}\n",
        "name: x\nbase: {architecture: a, size: 9}\n",
        "run_name: x\nmodel_name_or_path: y\n",
    ):
        reads(top + stages)
        assert accepted(top + stages), top


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "    learning_rte: 1\n",
        HEAD + "    learning_rate: abc\n",
        HEAD + "    learning_rate: -1\n",
        HEAD + "    tokens: 100x\n",
        HEAD + "    tune: lor\n",
        HEAD + "    tune: {lora: {rnk: 3}}\n",
        HEAD + "    schedule: cosin\n",
        HEAD + "    betas: [0.9]\n",
        HEAD + "- finetun: {data: a}\n",
        HEAD + "- corpus: {domain: d}\n  tokenizer: {data: a}\n",
        HEAD + "zzz: 1\n",
        "name: x\nbase: y\nstages: []\n",
        "base: y\nstages:\n- corpus: {domain: d}\n",
        "name: x\nstages:\n- corpus: {domain: d}\n",
        "- a\n",
    ],
)
def test_what_load_refuses_is_refused(text):
    assert not accepted(text)


def test_the_recipes_and_a_written_one_are_accepted(reads, quickstart):
    assert accepted(quickstart)
    assert accepted(dump(reads(quickstart).recipe))
    for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml"):
        reads(path.read_text())
        assert accepted(path.read_text()), path.name


def test_no_two_settings_have_one_name():
    assert not [name for name in json_schema()["$defs"] if "__" in name]
