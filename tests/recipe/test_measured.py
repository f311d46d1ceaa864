"""Expectations and measures as a recipe writes them."""

import pytest
from pydantic import ValidationError

from didact.recipe.measured import MeasureSpec, expectation
from didact.recipe.schema import Compare


@pytest.mark.parametrize(
    ("text", "numbers", "holds"),
    [
        ("x: a < b", {"a": 1.0, "b": 2.0}, True),
        ("x: a < b", {"a": 2.0, "b": 2.0}, False),
        ("x: a <= b", {"a": 2.0, "b": 2.0}, True),
        ("x: a < b * 1.02", {"a": 2.03, "b": 2.0}, True),
        ("x: a < b * 1.01", {"a": 2.03, "b": 2.0}, False),
        ("x: a * 2 > b", {"a": 1.5, "b": 2.0}, True),
        ("x: a < b < c", {"a": 1.0, "b": 3.0, "c": 2.0}, False),
        ("x: a < b", {"a": float("nan"), "b": 2.0}, False),
    ],
)
def test_expectations(text, numbers, holds):
    assert expectation(text).measure == "x"
    assert expectation(text).holds(numbers) is holds


@pytest.mark.parametrize("text", ["a < b", "x: a", "x: a = b", "x: < b", "x: a < b +", ""])
def test_what_is_no_expectation_is_refused(text):
    with pytest.raises(ValueError, match="an expectation is"):
        expectation(text)


def test_the_short_form_of_a_measure():
    spec = MeasureSpec.model_validate({"loss": {"data": "a.txt", "limit": 3, "objective": "causal"}})
    assert (spec.kind, spec.limit, spec.options) == ("loss", 3, {"objective": "causal"})
    assert MeasureSpec.model_validate({"loss": "a.txt"}).data.sources[0].path == "a.txt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expect": ["x: a < c"]}, "names no arm"),
        ({"expect": ["y: a < b"]}, "names no measure"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": []}, "at least 1"),
        ({"arms": {}}, "at least 1"),
        ({"measures": {}}, "at least 1"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(change, words):
    arms = {"a": [], "b": [{"pretrain": {"data": "a.txt"}}]}
    good = {"arms": arms, "measures": {"x": {"loss": "a.txt"}}, "expect": ["x: a < b"]}
    Compare.model_validate(good)
    with pytest.raises(ValidationError, match=words):
        Compare.model_validate(good | change)


def test_data_of_an_arms_own_stages_is_no_input():
    inner = [{"corpus": {"domain": "python-stdlib"}}, {"pretrain": {"data": ["corpus/documents", "b.txt"]}}]
    stage = Compare.model_validate({"arms": {"a": inner}, "measures": {"x": {"loss": "a.txt"}}})
    paths = [source.path for data in stage.inputs().values() for source in data.sources]
    assert paths == ["a.txt", "b.txt"]
