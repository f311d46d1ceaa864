"""The queue gives what is least judged to who has not judged it."""

import time

from didact.feedback.records import Message, Retraction, Review, Skip
from didact.feedback.review import enqueue, following, left
from didact.feedback.store import Kept, Store
from tests.feedback.samples import ANN, BOB, EVE, exchange, rating, thumb


def prompt(text):
    return (Message(role="user", content=text),)


def test_the_least_judged_comes_first_and_the_oldest_of_equals(store):
    asked = [store.add(exchange(prompt=str(i))) for i in range(3)]
    items = enqueue(store, [Review(exchange=one.id, wanted=2) for one in asked])
    assert following(store, ANN) == items[0]
    store.add(thumb(asked[0]))
    assert following(store, ANN) == items[1]
    assert following(store, BOB) == items[1]  # judged by nobody yet
    store.add(rating(asked[1]))
    store.add(rating(asked[2]))
    assert following(store, ANN) is None
    assert following(store, BOB) == items[0]
    store.add(thumb(asked[0], annotator=BOB))
    assert following(store, EVE) == items[1]  # the first was judged as often as wanted
    assert [left(store, annotator) for annotator in (ANN, BOB, EVE)] == [0, 2, 2]
    for annotator in (BOB, EVE):
        for one in asked[1:]:
            store.add(thumb(one, annotator=annotator))
    assert following(store, "new") is None


def test_a_person_counts_once_and_not_by_skipping(store):
    asked = store.add(exchange())
    (item,) = enqueue(store, [Review(exchange=asked.id, wanted=2)])
    store.add(Skip(exchange=asked.id, annotator=EVE))
    assert following(store, EVE) is None
    store.add(thumb(asked))
    store.add(rating(asked))
    assert following(store, BOB) == item
    store.add(thumb(asked, annotator=BOB))
    assert following(store, "new") is None


def test_what_was_taken_back_is_to_be_judged_again(store):
    asked = store.add(exchange())
    (item,) = enqueue(store, [Review(exchange=asked.id)])
    judged = store.add(thumb(asked))
    assert following(store, BOB) is None
    store.add(Retraction(exchange=asked.id, annotator=ANN, replaces=judged.id))
    assert following(store, BOB) == following(store, ANN) == item


def test_a_prompt_is_judged_by_the_answers_made_for_it(store):
    first, second = enqueue(store, [Review(prompt=prompt("Why?")), Review(prompt=prompt("Who?"))])
    assert following(store, ANN) == first
    made = store.add(exchange(review=first.id))
    assert following(store, ANN) == first
    store.add(thumb(made))
    assert following(store, ANN) == second
    assert following(store, BOB) == second


def test_nothing_is_put_twice(store):
    asked = store.add(exchange())
    items = [Review(exchange=asked.id), Review(prompt=prompt("Why?"))]
    assert enqueue(store, items) == enqueue(store, items)
    assert len(list(store.each("review"))) == 2


def test_a_long_queue_answers_at_once(tmp_path):
    with Store.open(str(tmp_path / "f.sqlite")) as store:
        asked = store.put([Kept.now(exchange(prompt=str(i))) for i in range(800)])
        items = enqueue(store, [Review(exchange=one.id, wanted=2) for one in asked])
        store.put([Kept.now(thumb(one)) for one in asked[:600]])
        began = time.process_time()
        assert following(store, BOB) == items[600]
        assert store.forget(ANN) == 600
        assert time.process_time() - began < 0.5  # a join without an index takes seconds, and the square of this


def test_judgements_of_what_is_not_in_the_queue_do_not_count(store):
    asked, other = store.add(exchange()), store.add(exchange(prompt="Who?"))
    (item,) = enqueue(store, [Review(exchange=asked.id)])
    store.add(thumb(other))
    assert following(store, ANN) == item
