"""Rewards that look at an answer: what they say, how a recipe says them, and what is wrong where there is none."""

import sys
from math import nan
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from didact.errors import DataProblem, UsageProblem
from didact.recipe.rewarding import Rewards
from didact.recipe.write import _plain
from didact.rollout.reward.base import Answered, scores
from didact.rollout.reward.function import Function
from didact.rollout.reward.regex import Regex

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


def test_how_a_recipe_says_rewards() -> None:
    given = [{"regex": "a+"}, {"regex": {"equals": "answer", "weight": 0}}, {"function": "math:sin"}]
    read = READ.validate_python(given)
    assert [reward.name for reward in read] == ["regex", "regex-2", "function"]
    assert [reward.weight for reward in read] == [1, 0, 1]
    assert READ.validate_python(_plain(read)) == read
    for wrong in ([{"regexx": "a"}], ["regex"], [{"regex": None}], [{"regex": "("}], [{"function": "sin"}]):
        with pytest.raises(ValidationError):
            READ.validate_python(wrong)
    with pytest.raises(ValidationError, match="two rewards are named 'a'"):
        READ.validate_python([{"regex": {"pattern": "a", "name": "a"}}, {"regex": {"pattern": "b", "name": "a"}}])
