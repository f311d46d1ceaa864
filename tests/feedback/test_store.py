"""What goes in stays as it is, comes out as it went in, once, and goes only when a person asks for it."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from didact.errors import DataProblem, MissingExtra, ResourceProblem, UsageProblem
from didact.feedback.records import Edit, Exchange, Forgotten, Retraction, Review, Skip
from didact.feedback.standing import standing
from didact.feedback.store import Conflict, Kept, Store, Unknown
from tests.feedback.samples import ANN, BOB, EVE, exchange, full, ranking, rating, thumb


def test_every_record_comes_back_as_it_went_in(place):
    with Store.open(place) as store:
        asked = store.add(full(), key="k")
        given = [
            store.add(thumb(asked, reason="too long\u0000", seconds=1.5)),
            store.add(rating(asked, candidate=1)),
            store.add(ranking(asked, [1], [0])),
            store.add(ranking(asked, [0, 1], annotator=BOB)),
            store.add(Edit(exchange=asked.id, annotator=ANN, text="better", candidate=None)),
            store.add(Skip(exchange=asked.id, annotator=EVE)),
            store.add(Review(exchange=asked.id, wanted=3)),
            store.add(Review(prompt=full().prompt)),
        ]
    with Store.open(place) as store:  # another process
        assert list(store.each()) == [asked, *given]
        assert list(store.each("review")) == given[-2:]
        assert store.get(asked.id) == asked
        assert asked.time.endswith("Z")
        assert asked.record == full()


def test_many_records_are_read_in_pages(store, monkeypatch):
    monkeypatch.setattr("didact.feedback.store.PAGE", 3)
    kept = [store.add(exchange(prompt=str(i))) for i in range(7)]
    assert list(store.each()) == kept


def test_a_request_sent_again_is_kept_once_and_answered_alike(store):
    first = store.add(exchange(), key="once")
    assert store.add(exchange(), key="once") == first
    judged = store.add(thumb(first), key="judged")
    corrected = store.add(thumb(first, up=False, replaces=judged.id), key="corrected")
    assert store.add(thumb(first), key="judged") == judged
    assert store.add(thumb(first, up=False, replaces=judged.id), key="corrected") == corrected
    with pytest.raises(Conflict, match="another record"):
        store.add(exchange(prompt="Who?"), key="once")
    assert len(list(store.each())) == 3


def test_the_same_key_from_many_threads_at_once_is_kept_once(store):
    barrier = threading.Barrier(8)

    def send(_) -> str:
        barrier.wait()
        return store.add(exchange(), key="k").id

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(send, range(8)))) == 1
    assert len(list(store.each())) == 1


def test_a_judgement_is_corrected_by_a_new_record_once(store):
    asked = store.add(exchange())
    first = store.add(thumb(asked))
    second = store.add(thumb(asked, up=False, replaces=first.id))
    assert [one.judgement.up for one in standing(store)] == [False]
    with pytest.raises(Conflict, match=f"was replaced before; replace {second.id} instead"):
        store.add(thumb(asked, replaces=first.id))
    store.add(Retraction(exchange=asked.id, annotator=ANN, replaces=second.id))
    assert standing(store) == []
    assert store.get(first.id) == first  # nothing was changed
    assert len(list(store.each("judgement"))) == 3


def test_what_one_says_last_of_a_candidate_stands(store):
    asked = store.add(exchange())
    for one in (thumb(asked), rating(asked, stars=2), thumb(asked, up=False), thumb(asked, candidate=1)):
        store.add(one)
    store.add(thumb(asked, annotator=BOB))
    said = [(one.judgement.annotator, one.judgement.kind, one.judgement.candidate) for one in standing(store)]
    assert said == [(ANN, "rating", 0), (ANN, "thumb", 0), (ANN, "thumb", 1), (BOB, "thumb", 0)]
    assert [one.judgement.up for one in standing(store) if one.judgement.kind == "thumb"] == [False, True, True]


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (lambda e, j: thumb(j), Unknown, "there is no exchange"),
        (lambda e, j: thumb(e, candidate=2), DataProblem, "there is no candidate 2; the exchange has 2"),
        (lambda e, j: rating(e, candidate=9), DataProblem, "there is no candidate 9"),
        (lambda e, j: ranking(e, [0]), DataProblem, "names each of the 2 candidates once"),
        (lambda e, j: ranking(e, [0], [0, 1]), DataProblem, "names each of the 2 candidates once"),
        (lambda e, j: ranking(e, [0], [2]), DataProblem, "names each of the 2 candidates once"),
        (lambda e, j: thumb(e, replaces=e.id), Unknown, "there is no judgement"),
        (lambda e, j: thumb(e, replaces="gone"), Unknown, "there is no judgement 'gone'"),
        (lambda e, j: thumb(e, annotator=BOB, replaces=j.id), Conflict, "by the same annotator's"),
        (lambda e, j: Retraction(exchange=e.id, annotator=ANN), DataProblem, "says which judgement it replaces"),
        (lambda e, j: exchange(review=e.id), Unknown, "there is no review"),
        (lambda e, j: Review(exchange=j.id), Unknown, "there is no exchange"),
    ],
)
def test_a_record_that_says_what_is_not_so_is_refused(store, wrong, kind, said):
    asked = store.add(exchange())
    judged = store.add(thumb(asked))
    with pytest.raises(kind, match=said):
        store.add(wrong(asked, judged))
    assert len(list(store.each())) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: exchange(shown=[0]),
        lambda: exchange(shown=[0, 0]),
        lambda: exchange(prompt="x" * 200_001),
        lambda: Exchange(prompt=[]),
        lambda: exchange(annotator="ann@example.org"),
        lambda: exchange(*"abcdef" * 3),
        lambda: exchange(likes=3),
        lambda: Review(),
        lambda: Review(prompt=full().prompt, exchange="x"),
    ],
)
def test_records_have_bounds(wrong):
    with pytest.raises(ValidationError):
        wrong()


def test_all_or_none_are_kept(store):
    asked = store.add(exchange())
    with pytest.raises(Unknown):
        store.put([Kept.now(exchange(prompt="new")), Kept.now(Review(exchange="gone"))])
    assert list(store.each()) == [asked]


def test_a_forgotten_person_is_gone_and_all_that_rests_on_them(place, tmp_path):
    with Store.open(place) as store:
        hers = store.add(exchange("zebra-answer", prompt="zebra-prompt", annotator=ANN))
        store.add(thumb(hers, annotator=BOB, reason="zebra-reason"))
        item = store.add(Review(exchange=hers.id))
        store.add(exchange(prompt="zebra-made", review=item.id))
        his = store.add(exchange(annotator=BOB))
        mine = store.add(thumb(his, annotator=ANN, reason="zebra-mine"))
        store.add(thumb(his, annotator=ANN, up=False, replaces=mine.id))
        kept = store.add(thumb(his, annotator=BOB))
        assert store.forget(ANN) == 6
        assert store.forget(ANN) == 0
        last = list(store.each())
        assert last[:2] == [his, kept]
        assert [one.record for one in last[2:]] == [Forgotten(count=6)]
        for file in tmp_path.iterdir():  # of SQLite: not a byte is left on the disk
            assert b"zebra" not in file.read_bytes()
        with store.engine.connect() as connection:
            left = connection.execute(text("select count(*) from feedback_record where body like '%zebra%'"))
            assert left.scalar() == 0


def test_a_person_is_forgotten_while_others_speak_of_them(store):
    def speak(i) -> None:
        try:
            while True:
                store.add(thumb(asked, annotator=f"b{i}"))
                time.sleep(0.005)  # SQLite's lock is not fair: without a pause, who forgets waits long
        except Unknown:
            return

    for _ in range(3):
        asked = store.add(exchange(annotator=ANN))
        with ThreadPoolExecutor(2) as threads:
            speaking = [threads.submit(speak, i) for i in range(2)]
            assert store.forget(ANN) >= 1
            for one in speaking:
                one.result()
        assert not list(store.each("exchange", "judgement"))


def test_ids_of_the_forgotten_are_not_given_again(store):
    store.add(exchange(annotator=ANN))
    with store.engine.connect() as connection:
        before = connection.execute(text("select max(seq) from feedback_record")).scalar()
    store.forget(ANN)
    with store.engine.connect() as connection:
        assert connection.execute(text("select max(seq) from feedback_record")).scalar() > before


# --- places that cannot be used ----------------------------------------------------------------------------


def test_places_that_cannot_be_used_are_said_in_one_line(tmp_path):
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(ResourceProblem, match=r"text.sqlite: the feedback store cannot be used: .*not a database"):
        Store.open(str(tmp_path / "text.sqlite"))
    (tmp_path / "file").touch()
    with pytest.raises(ResourceProblem, match="cannot be made here"):
        Store.open(str(tmp_path / "file" / "below.sqlite"))
    with pytest.raises(ResourceProblem, match="cannot be used"):
        Store.open(str(tmp_path))
    for wrong in ("mysql://localhost/x", "sqlite://", "ftp://x", "://"):
        with pytest.raises(UsageProblem, match=r"postgresql\+psycopg|name a file"):
            Store.open(wrong)


def test_a_password_is_not_shown(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(ResourceProblem) as caught:
        Store.open(f"postgresql+psycopg://ann:sesame@/x?host={tmp_path}")
    assert "sesame" not in str(caught.value)


def test_without_its_packages_the_install_line_is_said(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'didact\[postgres\]'"):
        Store.open("postgresql+psycopg://localhost/x")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delitem(sys.modules, "didact.feedback.store")
    with pytest.raises(MissingExtra, match=r"pip install 'didact\[serve\]'"):
        import didact.feedback.store  # noqa: F401


def test_a_full_disk_is_said(tmp_path):
    with Store.open(str(tmp_path / "f.sqlite")) as store:
        connection = store.engine.raw_connection()
        connection.cursor().execute("pragma max_page_count = 30")
        connection.close()
        with pytest.raises(ResourceProblem, match="database or disk is full"):
            store.add(exchange("x" * 200_000))
        assert sqlite3.connect(tmp_path / "f.sqlite").execute("pragma integrity_check").fetchone() == ("ok",)
