"""Out as others read it, in as others write it, and a form that loses nothing."""

import orjson
import pytest

from didact.data.example import Conversation
from didact.data.formats import example
from didact.errors import DataProblem
from didact.feedback.jsonl import FORMS, lines, load, pseudonym
from didact.feedback.records import Edit, Exchange, Retraction, Review, Skip
from didact.feedback.standing import standing
from didact.feedback.store import Store
from tests.feedback.samples import ANN, BOB, EVE, exchange, full, ranking, rating, thumb

ASKED = [{"role": "user", "content": "Why?"}]


def told(text):
    return [{"role": "assistant", "content": text}]


def dumped(store, form="records") -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines(store, form))


def read(data: bytes, name="f"):
    return [(f"{name}:{i}", orjson.loads(line)) for i, line in enumerate(data.splitlines(), 1)]


@pytest.fixture
def filled(store):
    """A store with everything in it."""
    first = store.add(full(), key="k")
    asked = store.add(exchange("one", "two", "three"))
    up = store.add(thumb(asked, reason="good"))
    store.add(thumb(asked, annotator=BOB, up=False, candidate=2))
    wrong = store.add(rating(asked, stars=1))
    store.add(rating(asked, stars=5, replaces=wrong.id, seconds=0.1))
    store.add(ranking(asked, [2], [0, 1]))
    store.add(Edit(exchange=asked.id, annotator=EVE, text="four", candidate=1))
    store.add(Skip(exchange=first.id, annotator=EVE))
    item = store.add(Review(prompt=first.record.prompt, wanted=2))
    store.add(exchange(review=item.id, prompt="made"))
    store.add(Retraction(exchange=asked.id, annotator=ANN, replaces=up.id))
    store.add(thumb(first, annotator="gone"))
    store.forget("gone")
    return store


def test_records_lose_nothing(filled, tmp_path):
    whole = dumped(filled)
    with Store.open(str(tmp_path / "copy.sqlite")) as copy:
        assert load(copy, read(whole), "x") == len(whole.splitlines())
        assert dumped(copy) == whole
        assert load(copy, read(whole), "x") == len(whole.splitlines())
        assert dumped(copy) == whole
        assert standing(copy) == standing(filled)
    load(filled, read(whole), "x")
    assert dumped(filled) == whole


def test_the_fields_formats(filled):
    by = {
        form: {line.pop("annotator") for line in [*lines(filled, form)]} for form in ("kto", "ratings", "preferences")
    }
    assert {pseudonym(ANN)} <= set().union(*by.values()) <= {pseudonym(name) for name in (ANN, BOB, EVE)}
    assert ANN not in repr(by)
    assert bare(filled, "kto") == [{"prompt": ASKED, "completion": told("three"), "label": False}]
    assert bare(filled, "ratings") == [{"prompt": ASKED, "completion": told("one"), "rating": 5}]
    assert bare(filled, "rankings") == [
        {
            "prompt": ASKED,
            "completions": [told("one"), told("two"), told("three")],
            "ranking": [[2], [0, 1]],
            "shown": [0, 1, 2],
        }
    ]
    assert bare(filled, "preferences") == [
        {"prompt": ASKED, "chosen": told("three"), "rejected": told("one"), "shown": [1, 0]},
        {"prompt": ASKED, "chosen": told("three"), "rejected": told("two"), "shown": [1, 0]},
        {"prompt": ASKED, "chosen": told("four"), "rejected": told("two")},  # nobody saw the two beside each other
    ]
    assert list(lines(filled, "sft")) == [{"messages": ASKED + told("four")}]


def bare(store, form):
    """Lines without who judged."""
    return [{name: value for name, value in line.items() if name != "annotator"} for line in lines(store, form)]


def test_what_is_good_is_edits_and_thumbs_up(store):
    asked = store.add(exchange("one", "two"))
    store.add(thumb(asked))
    store.add(thumb(asked, candidate=1, up=False))
    store.add(Edit(exchange=asked.id, annotator=ANN, text="more", candidate=1))
    assert list(lines(store, "good")) == [{"messages": ASKED + told("one")}, {"messages": ASKED + told("more")}]
    assert all(isinstance(example("f", line), Conversation) for line in lines(store, "good"))


def test_answers_without_text_are_left_out(store):
    asked = store.add(exchange("one", " "))
    for one in (thumb(asked, candidate=1), rating(asked, candidate=1), ranking(asked, [0], [1])):
        store.add(one)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}]  # stopped at once
    store.add(thumb(store.add(Exchange(prompt=turns, candidates=exchange().candidates))))
    assert [line for form in FORMS if form != "records" for line in lines(store, form)] == []


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("records", "good")])
def test_what_was_exported_is_imported_and_exported_alike(filled, form, tmp_path):
    data = dumped(filled, form)
    with Store.open(str(tmp_path / "copy.sqlite")) as copy:
        count = load(copy, read(data), "them")
        assert count == len(data.splitlines()) > 0
        assert dumped(copy, form) == data
        whole = dumped(copy)
        load(copy, read(data), "them")
        assert dumped(copy) == whole
        who = {one.judgement.annotator for one in standing(copy)}
        assert who == {"them"} if form == "sft" else "them" not in who


def test_text_is_imported_as_well_as_messages_and_equal_lines_both_count(store):
    line = {"prompt": "Why?", "chosen": "b", "rejected": "a"}
    assert load(store, [("f:1", line), ("f:2", line)], "them") == 2
    assert bare(store, "preferences") == [{"prompt": ASKED, "chosen": told("b"), "rejected": told("a")}] * 2
    assert [one.exchange.shown for one in standing(store)] == [(), ()]  # in which order they were shown is not known


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"text": "a"}, "f:2: fields text are of no known format; wanted a line as `didact feedback export`"),
        ({"prompt": "a", "chosen": "b"}, "f:2: fields chosen, prompt are of no known format"),
        ({"prompt": "a", "completion": "b", "label": "up"}, "f:2: judgement.thumb.up: input should be a valid boolean"),
        ({"prompt": "a", "completion": "b", "rating": 6}, "f:2: judgement.rating.rating: input should be less than"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "f:2: an answer is text, or a list of one assistant message"),
        ({"prompt": "a", "completions": ["b", "c"], "ranking": [[0]]}, "f:2: a ranking names each of the 2 candidates"),
        ({"messages": ASKED}, "f:2: fields messages are of no known format"),
        ({"messages": told("a")}, "f:2: prompt: tuple should have at least 1 item"),
        ({"id": "x", "record": {"type": "skip"}}, "f:2: time: field required"),
        (
            {"id": "x", "time": "now", "record": {"type": "forgotten", "count": 1}},
            "f:2: time: string should match pattern",
        ),
    ],
)
def test_a_wrong_line_is_named(store, line, problem):
    with pytest.raises(DataProblem) as caught:
        load(store, [("f:1", {"prompt": "a", "completion": "b", "label": True}), ("f:2", line)], "them")
    assert problem in str(caught.value)


def test_a_record_that_contradicts_one_here_is_named(store):
    asked = store.add(exchange())
    (line,) = lines(store, "records")
    line["record"]["page"] = "2"
    other = {**line, "id": "new"}
    with pytest.raises(DataProblem, match="f:2: this id or key is of another record"):
        load(store, [("f:1", other), ("f:2", line), ("f:3", {**other, "id": "newer"})], "them")
    assert [kept.id for kept in store.each()] == [asked.id, "new"]
