"""Simulated people: what they were given is what is found in what they say."""

import random

import numpy as np
import orjson
import pytest

from didact.feedback.crowd import Asked, Member, judge, member, people, written
from didact.feedback.jsonl import lines
from didact.feedback.records import Message, Ranking
from didact.feedback.report import report
from didact.feedback.standing import standing
from didact.feedback.store import Store
from didact.feedback.tastes import code, correct, feature, known, length, polite

KINDS = ("thumb", "rating", "ranking")


@pytest.mark.parametrize(
    ("answer", "has"),
    [
        ("Thank you for asking!", {"polite": 1, "code": 0, "says:asking": 1}),
        ("```\nprint(1)\n```", {"polite": 0, "code": 1, "says:print": 1}),
        ("def f(x): return x", {"code": 1, "polite": 0}),
        ("The pleasant thank-less task: ASKINGS", {"says:asking": 0, "says:task": 1}),
        ("", {"polite": 0, "code": 0, "correct": 0}),
    ],
)
def test_what_can_be_checked(answer, has):
    assert {taste: feature(taste, answer, "a b") for taste in has} == has


def test_length_counts_doublings_and_correctness_words():
    assert length("word " * 32, "") == 0
    assert length("word " * 65, "") == 1
    assert length("word " * 10_000, "") == 3
    assert length("", "") == -3
    assert correct("it is red", "it is blue") == pytest.approx(2 / 3)
    assert correct("Red.", "red") == 1
    assert correct("red", "") == 0
    assert polite("please", "") == 1
    assert code("import duties fall from here: class of 1999", "") == 0
    assert [known(one) for one in ("length", "says:x", "says:", "says:a b", "colour")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def asked(count: int = 60, seed: int = 0) -> list[Asked]:
    """Prompts with four answers each, some polite, some long."""
    r = random.Random(seed)
    return [
        Asked(
            (Message(role="user", content=f"question {number}"),),
            tuple(("Thank you. " if r.random() < 0.5 else "") + "word " * r.randint(4, 90) + str(k) for k in range(4)),
        )
        for number in range(count)
    ]


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "crowd.sqlite")) as opened:
        yield opened


def test_rankings_follow_the_taste_and_errors_do_not(store):
    sure, lost = Member("sure", {"polite": 1.0}), Member("lost", {"polite": 1.0}, error=1.0)
    assert judge(store, [sure, lost], asked(), 2, ["ranking"], 0) == 120
    right = {"sure": [], "lost": []}
    for said in standing(store):
        assert isinstance(said.judgement, Ranking)
        texts = [one.text for one in said.exchange.candidates]
        nice = [polite(texts[number], "") for number in said.judgement.flat]
        if 0 < sum(nice) < 4:
            right[said.judgement.annotator].append(nice == sorted(nice, reverse=True))
    assert all(right["sure"])
    assert np.mean(right["lost"]) < 0.5


def test_the_report_finds_what_the_members_were_given(store):
    tastes = {"polite": 2.0, "length": 0.5}
    good = [Member(f"m{i}", tastes, error=0.05) for i in range(4)]
    bad = [Member("lost", tastes, error=1.0)]
    judge(store, [*good, *bad, Member("early", tastes, first=3.0)], asked(100), 6, KINDS, 0)
    found = report(store)
    skill = {name: one["skill"]["thumb"]["accuracy"] for name, one in found["annotators"].items()}
    assert min(skill[one.name] for one in good) > skill["lost"] + 0.1
    first = {name: one["first_shown"]["rate"] for name, one in found["annotators"].items()}
    assert first["early"] > 0.65
    assert max(first[one.name] for one in good) < 0.6
    assert found["agreement"]["ranking"]["alpha"]["ordinal"] > 0.3
    assert found["bias"]["longer"]["low"] > 0.5


def test_the_same_again_adds_nothing_and_is_the_same_elsewhere(store, tmp_path):
    members = people(5, {"length": -1.0}, 0.3, 0.1, 0.1, seed=3)
    judge(store, members, asked(20), 3, KINDS, 3)
    first = list(lines(store, "records"))
    judge(store, members, asked(20), 3, KINDS, 3)
    assert list(lines(store, "records")) == first
    assert len(first) == 20 + 20 * 3 * 3
    with Store.open(str(tmp_path / "other.sqlite")) as other:
        judge(other, members, asked(20), 3, KINDS, 3)
        assert list(lines(other, "records")) == first


def test_thumbs_go_both_ways_whatever_the_taste(store):
    judge(store, people(6, {"length": -1.0, "polite": 3.0}, 0.1, 0.0, 0.0, 1), asked(80), 3, ["thumb"], 1)
    up = [line["label"] for line in lines(store, "kto")]
    assert 0.25 < np.mean(up) < 0.75


def test_people_have_their_own_tastes_and_can_be_written_down():
    members = people(200, {"length": 1.0, "polite": -1.0}, 0.3, 0.1, 0.2, seed=0)
    own = np.array([[one.tastes["length"], one.tastes["polite"], one.error, one.first] for one in members])
    assert own.mean(0) == pytest.approx([1.0, -1.0, 0.1, 0.2], abs=0.06)
    assert own.std(0)[:2] == pytest.approx([0.3, 0.3], abs=0.05)
    assert own[:, 2].max() <= 0.2
    assert [member(orjson.loads(line)) for line in written(members).splitlines()] == members
    assert people(3, {"length": 1.0}, 0.3, 0.1, 0.2, 0, "h")[0] != people(3, {"length": 1.0}, 0.3, 0.1, 0.2, 0)[0]
