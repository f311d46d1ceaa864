"""Rewards that look at an answer: what they say, how a recipe says them, and what is wrong where there is none."""

import sys
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from didact.errors import DataProblem, UsageProblem
from didact.recipe.rewarding import Rewards
from didact.recipe.write import _plain
from didact.rollout.reward.base import Answered, scores
from didact.rollout.reward.faithful import Faithful
from didact.rollout.reward.function import Function
from didact.rollout.reward.json import Json
from didact.rollout.reward.regex import Regex
from didact.run.rewards import weighed

READ: TypeAdapter[Any] = TypeAdapter(Rewards)


def said(text: str, **record: Any) -> Answered:
    return Answered(({"role": "user", "content": "?"},), text, record, where="data.jsonl:3")


@pytest.mark.parametrize(
    ("fields", "answer", "record", "worth"),
    [
        ({"pattern": r"<b>.*</b>"}, "so <b>a\nb</b>.", {}, 1),
        ({"pattern": r"<b>.*</b>", "whole": True}, "so <b>a</b>.", {}, 0),
        ({"pattern": r"<b>.*</b>", "whole": True}, " <b>a</b>\n", {}, 1),
        ({"equals": "answer"}, " Paris ", {"answer": "Paris"}, 1),
        ({"equals": "answer"}, "Paris, France", {"answer": "Paris"}, 0),
        ({"pattern": r"#### (\S+)", "equals": "answer"}, "#### 1\n#### 2", {"answer": 2}, 1),
        ({"pattern": r"#### (\S+)", "equals": "answer"}, "2", {"answer": 2}, 0),
        ({"equals": "answer", "numeric": True}, "3 + 1,997 = 2,000.0", {"answer": "2000"}, 1),
        ({"equals": "answer", "numeric": True}, "it is -.5", {"answer": -0.5}, 1),
        ({"equals": "answer", "numeric": True}, "none", {"answer": 1}, 0),
        ({"equals": "answer", "numeric": True}, "7.1", {"answer": 7}, 0),
    ],
)
def test_a_pattern_and_what_the_record_says(fields: dict, answer: str, record: dict, worth: float) -> None:
    assert scores(Regex(**fields), [said(answer, **record)]) == [worth]


def test_a_record_without_the_field_or_without_a_number_is_named() -> None:
    with pytest.raises(DataProblem, match=r"data.jsonl:3: the record has no field 'answer'; it has key"):
        scores(Regex(equals="answer"), [said("1", key="1")])
    with pytest.raises(DataProblem, match=r"data.jsonl:3: its field 'answer' is 'four', which has no number"):
        scores(Regex(equals="answer", numeric=True), [said("4", answer="four")])


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "import math\n"
        "def length(one, most=10): return min(len(one.answer), most)\n"
        "def odd(one): return {'a': math.nan, 'b': None, 'c': 1 / 1}[one.answer]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reward = Function(name="length", path="my_rewards:length", options={"most": 3})
    assert scores(reward.open(lambda name: name), [said("ab"), said("abcdef")]) == [2, 3]
    odd = Function(name="odd", path="my_rewards:odd")
    assert scores(odd, [said("c")]) == [1]
    for answer, what in (("a", "gave nan"), ("b", "gave None"), ("d", "failed on this record .KeyError")):
        with pytest.raises(DataProblem, match=f"data.jsonl:3: reward 'odd' {what}"):
            scores(odd, [said("c"), said(answer)])
    with pytest.raises(UsageProblem, match="cannot import reward 'my_rewards:lenth'"):
        Function(path="my_rewards:lenth").open(lambda name: name)
    sys.modules.pop("my_rewards")


def test_a_reward_gives_as_many_numbers_as_there_are_answers() -> None:
    class Short:
        name = "short"

        def __call__(self, done: Any) -> list[float]:
            return [nan]

    with pytest.raises(DataProblem, match="'short' gave 1 numbers for 2 answers"):
        scores(Short(), [said("a"), said("b")])


def test_numbers_of_numpy_are_numbers_and_what_is_none_is_one_line() -> None:
    class Given:
        name = "given"

        def __init__(self, given: Any):
            self.given = given

        def __call__(self, done: Any) -> Any:
            if isinstance(self.given, Exception):
                raise self.given
            return self.given

    assert scores(Given(np.ones(1, np.float32)), [said("a")]) == [1]
    for given in (None, 1.0, ValueError("two\nlines"), [np.float32("inf")]):
        with pytest.raises(DataProblem, match=r"^data.jsonl:3: reward 'given' [^\n]*$"):
            scores(Given(given), [said("a")])


def test_how_a_recipe_says_rewards() -> None:
    given = [{"regex": "a+"}, {"regex": {"equals": "answer", "weight": 0}}, {"function": "math:sin"}]
    read = READ.validate_python(given)
    assert [reward.name for reward in read] == ["regex", "heldout", "function"]
    assert [reward.weight for reward in read] == [1, 0, 1]
    assert READ.validate_python(_plain(read)) == read
    for wrong in ([{"regexx": "a"}], ["regex"], [{"regex": None}], [{"regex": "("}], [{"function": "sin"}]):
        with pytest.raises(ValidationError):
            READ.validate_python(wrong)
    with pytest.raises(ValidationError, match="two rewards are named 'a'"):
        READ.validate_python([{"regex": {"pattern": "a", "name": "a"}}, {"regex": {"pattern": "b", "name": "a"}}])


@pytest.mark.parametrize(
    ("answer", "fields", "worth"),
    [
        ('{"a": [1, 2]}', {}, 1),
        ("{'a': 1}", {}, 0),
        ("NaN", {}, 0),
        ('{"a": 1, "a": 2}', {}, 0),
        ("[" * 100_000, {}, 0),
        ('So:\n```json\n{"a": 1}\n```', {"fenced": True}, 1),
        ('{"a": 1}', {"fenced": True}, 0),
        ('{"a": 1}', {"matches": {"type": "object", "required": ["a"]}}, 1),
        ('{"b": 1}', {"matches": {"type": "object", "required": ["a"]}}, 0),
        ('{"a": true}', {"matches": {"properties": {"a": {"type": "integer"}}}}, 0),
        ('{"a": 1, "b": 2}', {"matches": {"properties": {"a": {}}, "additionalProperties": False}}, 0),
        ('["x", "yy"]', {"matches": {"items": {"type": "string", "maxLength": 1}}}, 0),
        ("3", {"matches": {"anyOf": [{"type": "string"}, {"enum": [1, 3.0]}]}}, 1),
        ("1", {"matches": {"const": True}}, 0),
        ("1e999", {"matches": {"type": "integer"}}, 0),
        ("1e3", {"matches": {"type": "integer"}}, 1),
    ],
)
def test_json_of_a_shape(answer: str, fields: dict, worth: float) -> None:
    assert scores(Json(**fields), [said(answer)]) == [worth]


def test_a_schema_that_would_be_passed_over_is_refused() -> None:
    for wrong in ({"oneOf": []}, {"properties": {"a": {"format": "date"}}}, {"type": "float"}):
        with pytest.raises(ValidationError, match=r"not understood|there is no type"):
            Json(matches=wrong)


PROMPT = '<passage number="1" source="a">\nThe Nile is long.\nIt flows north.\n</passage>\n\nQuestion: Where?'


@pytest.mark.parametrize(
    ("answer", "of", "worth"),
    [
        ("> It flows north. [1]\n\nNorth.", "quotes", 1),
        ('It says "the Nile is long" and "it flows south".', "quotes", 0.5),
        ("> long. It flows", "quotes", 1),
        ("North.", "quotes", 0),
        ("The Nile flows north [1]", "words", 1),
        ("The Nile flows south", "words", 0.75),
        ("", "words", 0),
    ],
)
def test_what_stands_in_the_passages(answer: str, of: Any, worth: float) -> None:
    given = Answered(({"role": "user", "content": PROMPT},), answer, {}, where="d:1")
    assert scores(Faithful(of=of), [given]) == [worth]
    kept = said(answer, context=["The Nile is long. It flows north."])
    assert scores(Faithful(of=of, passages="context"), [kept]) == [worth]


def test_a_prompt_without_passages_is_named() -> None:
    with pytest.raises(DataProblem, match=r"data.jsonl:3: this prompt quotes no passages"):
        scores(Faithful(), [said("> a")])


def test_rewards_are_weighed_and_one_of_weight_zero_is_only_measured() -> None:
    given = [{"regex": {"pattern": "a", "weight": 2}}, {"regex": "b"}, {"regex": {"pattern": "c", "weight": 0}}]
    total, each = weighed(READ.validate_python(given), lambda name: name)([said("ab"), said("bc"), said("c")])
    assert total == [3, 1, 0]
    assert each == {"regex": [1, 0, 0], "regex-2": [1, 1, 0], "heldout": [0, 1, 1]}


def test_what_is_held_out_is_called_so():
    specs = READ.validate_python([{"regex": "a"}, {"regex": {"pattern": "b", "weight": 0}}])
    assert [spec.name for spec in specs] == ["regex", "heldout"]
