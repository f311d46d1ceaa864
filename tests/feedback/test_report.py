"""The report says what was planted."""

import json
import random

import pytest

from didact.feedback.report import Kept, report
from didact.feedback.store import Store
from tests.feedback.samples import exchange, ranking, rating, thumb

PEOPLE = {"ann": 0.95, "bob": 0.9, "eve": 0.5}  # how often each is right


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Sixty rounds: model a is better, bob gives a star more than the others, eve guesses."""
    draw = random.Random(0)
    with Store.open(str(tmp_path_factory.mktemp("report") / "f.sqlite")) as store:
        for i in range(60):
            asked = store.add(exchange("a" * 20, "b" * 10, shown=draw.sample([0, 1], 2), prompt=str(i)))
            good, stars = draw.random() < 0.5, draw.randint(2, 4)
            for name, skill in PEOPLE.items():
                right = draw.random() < skill
                store.add(thumb(asked, name, up=good if right else not good))
                store.add(rating(asked, name, stars + (name == "bob")))
                store.add(ranking(asked, *([[0], [1]] if right else [[1], [0]]), annotator=name))
        store.forget("eve-who-never-was")
        return report(store)


def test_the_volume(found):
    volume = found["volume"]
    assert volume["records"] == {"exchange": 60, "ranking": 180, "rating": 180, "thumb": 180}
    assert volume["annotators"] == 3
    assert sum(day["judgement"] for day in volume["by_day"]) == 540


def test_agreement(found):
    agreement = found["agreement"]
    assert 0.2 < agreement["thumb"]["alpha"]["nominal"] < 0.7
    assert agreement["rating"]["alpha"]["interval"] > agreement["rating"]["alpha"]["nominal"]
    assert agreement["rating"]["judged_by_several"] == 60
    assert set(agreement["ranking"]["alpha"]) == {"nominal", "ordinal"}


def test_who_is_good_and_who_is_lenient(found):
    people = found["annotators"]
    accuracy = {name: people[name]["skill"]["thumb"]["accuracy"] for name in PEOPLE}
    assert accuracy == pytest.approx(PEOPLE, abs=0.12)
    assert people["bob"]["leniency"]["rating"]["mean"] == pytest.approx(1.0)
    assert people["ann"]["leniency"]["rating"]["mean"] == pytest.approx(-0.5)


def test_wins_and_biases(found):
    wins = found["win_rates"]
    assert wins["a"]["low"] > 0.5 > wins["b"]["high"]
    assert wins["a"]["rounds"] == 180
    assert found["annotators"]["eve"]["win_rates"]["a"]["rate"] < found["annotators"]["ann"]["win_rates"]["a"]["rate"]
    assert found["bias"]["longer"] == wins["a"]
    position = found["bias"]["first_shown"]
    assert position["low"] < 0.5 < position["high"]


def test_it_is_made_anew_only_where_the_store_has_changed(store, monkeypatch):
    made = []
    monkeypatch.setattr("didact.feedback.report.report", lambda store: made.append(store.state()) or {"n": len(made)})
    kept = Kept(store)
    assert [kept.report()["n"], kept.report()["n"]] == [1, 1]
    asked = store.add(exchange("a", prompt="x"))
    assert [kept.report()["n"], kept.report()["n"]] == [2, 2]
    store.add(thumb(asked, "ann", up=True))
    assert kept.report()["n"] == 3
    store.forget("ann")  # takes the last record away and says so
    assert [kept.report()["n"], kept.report()["n"]] == [4, 4]


def test_it_is_json_also_of_nothing(found, store):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    empty = report(store)
    assert empty["agreement"]["thumb"] == {
        "alpha": {"nominal": None},
        "annotators": 0,
        "votes": 0,
        "judged_by_several": 0,
    }
    assert json.dumps(empty, allow_nan=False)
    assert empty["win_rates"] == empty["annotators"] == {}
