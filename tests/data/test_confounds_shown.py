"""What sways people, counted before training: above all the place in which they saw an answer, not that in a file."""

import orjson
import pytest

from didact.data.confounds import confounds
from didact.data.formats import example
from didact.data.settings import Data
from didact.data.source import examples
from didact.errors import DataProblem
from didact.feedback.crowd import Asked, Member, judge
from didact.feedback.jsonl import lines, load
from didact.feedback.records import Message
from didact.feedback.store import Store


def said(tmp_path, first: float, form: str) -> list[dict]:
    """What four people say of 60 prompts with three answers, to whom the first place is worth so much."""
    texts = [tuple(f"word {'w ' * ((i * 7 + k * 3) % 11)}{k}" for k in range(3)) for i in range(60)]
    asked = [Asked((Message(role="user", content=f"q{i}"),), answers) for i, answers in enumerate(texts)]
    members = [Member(f"m{i}", {"length": 0.3}, error=0.3, first=first) for i in range(4)]
    with Store.open(str(tmp_path / f"{first}.sqlite")) as store:
        judge(store, members, asked, 2, ["ranking"], 0)
        return list(lines(store, form))


def found(tmp_path, records: list[dict]):
    path = tmp_path / "judged.jsonl"
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return confounds(one for source in examples(Data.model_validate(str(path)), {}, 0) for one in source)


@pytest.mark.parametrize("form", ["preferences", "rankings"])
def test_a_planted_bias_of_place_is_found_where_the_order_shown_is_known(tmp_path, form):
    records = said(tmp_path, 3.0, form)
    biased = found(tmp_path, records)
    rate = biased.facts()["shown_first"]
    assert rate["low"] > 0.6
    assert "the one shown first" in biased.lines()[1]
    assert "where 50% is no bias" in biased.lines()[1]
    fair = found(tmp_path, said(tmp_path, 0.0, form)).facts()["shown_first"]
    assert fair["low"] <= 0.5 <= fair["high"]
    old = found(tmp_path, [{name: value for name, value in one.items() if name != "shown"} for one in records]).facts()
    assert "shown_first" not in old  # the order of a file says nothing of it
    assert ("first" in old) == (form == "rankings")


def test_the_order_shown_goes_out_and_in_again(tmp_path):
    for form in ("preferences", "rankings"):
        records = said(tmp_path, 3.0, form)
        with Store.open(str(tmp_path / f"{form}.sqlite")) as store:
            load(store, [(f"line {i}", one) for i, one in enumerate(records)], "ann")
            assert list(lines(store, form)) == records


def test_whoever_saw_the_worse_one_first():
    one = example("x:1", {"prompt": "p", "chosen": "a", "rejected": "b", "shown": [1, 0]})
    assert one.places == (1, 0)
    ranked = {"prompt": "p", "completions": ["a", "b", "c"], "ranking": [[1], [0, 2]], "shown": [2, 0, 1]}
    assert example("x:1", ranked).places == (1, 2, 0)


@pytest.mark.parametrize("shown", [[0], [0, 0], [1, 2], "01", [0, True], [0.0, 1.0]])
def test_an_order_that_is_none_is_one_line(shown):
    with pytest.raises(DataProblem, match=r"x:1: shown"):
        example("x:1", {"prompt": "p", "chosen": "a", "rejected": "b", "shown": shown})
