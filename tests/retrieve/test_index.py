"""Searching: every way of it against its definition, questions that no grammar foresees, many threads, live changes."""

import math
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import DataProblem, UsageProblem
from didact.retrieve.index import Index, fused, terms
from didact.retrieve.where import stored
from tests.retrieve.toy import index, toy, vectors

TOPICS = ["cats purr softly", "dogs bark loudly", "birds sing early", "fish swim deep", "cats and dogs play"]


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for number, text in enumerate(TOPICS * 3):
        (folder / f"{number:02}.md").write_text(f"# Topic {number}\n\n{text} number{number}\n")
    (folder / "plain.txt").write_text("cats again, without a heading")
    (folder / "odd[1].txt").write_text("an odd name about cats")
    return folder


@pytest.fixture(scope="module")
def made(docs, places):
    place = places()
    index(docs, place, toy())
    return place


@pytest.fixture(scope="module")
def opened(made):
    return Index.open(made, embedding=toy())


def test_words_find_what_holds_them(opened):
    found = opened.search("purring CATS?", k=20, mode="words")
    assert len(found) == 8
    assert all("cats" in passage.text for passage in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert math.isnan(found[0].similarity)
    assert opened.search("nowhere to be seen", mode="words") == []
    assert opened.search(" \n") == []


def test_a_server_ranks_words_as_a_file_does(docs, tmp_path, server):
    """The same passages with the same scores: what recall and nDCG measure is the same."""
    for where in (tmp_path / "ix", f"{server}#ranks"):
        index(docs, where)
    file, base = Index.open(tmp_path / "ix"), Index.open(f"{server}#ranks")
    for query in ("cats purr", "DOGS barked, and cats!", "number3 sings early topic 7", "heading", "Fish número1 näh"):
        one, other = file.search(query, k=40), base.search(query, k=40)
        assert one
        assert [found.source for found in one] == [found.source for found in other]
        assert [found.score for found in one] == pytest.approx([found.score for found in other], rel=1e-4)


def test_dense_is_brute_force(opened, made):
    base = stored(made).connect()
    rows = base.found_vectors()
    base.close()
    kept = np.stack([np.frombuffer(data, "<f2") for _, data in rows]).astype(np.float32)
    for query in ("cats purr", "fish", "nothing known"):
        cosine = kept @ vectors([query], "query")[0]
        best = sorted(range(len(rows)), key=lambda i: (-cosine[i], i))[:5]
        found = opened.search(query, k=5, mode="dense")
        assert [one.number for one in found] == [rows[i][0] for i in best]
        assert [one.score for one in found] == pytest.approx([cosine[i] for i in best])
        assert [one.similarity for one in found] == [one.score for one in found]


def test_fusion_by_hand():
    assert fused([[7, 8], [8, 9]]) == {7: 1 / 61, 8: 1 / 62 + 1 / 61, 9: 1 / 62}


def test_hybrid_is_both_fused(opened):
    query = "cats sing"
    lists = [[one.number for one in opened.search(query, k=99, mode=mode)] for mode in ("words", "dense")]
    expected = fused(lists)
    found = opened.search(query, k=6)
    assert [one.number for one in found] == sorted(expected, key=lambda n: (-expected[n], n))[:6]
    assert [one.score for one in found] == [expected[one.number] for one in found]
    assert not math.isnan(found[0].similarity)


def test_without_vectors_words_are_searched(docs, place):
    index(docs, place)
    opened = Index.open(place)
    assert not opened.dense
    assert opened.search("birds") == opened.search("birds", mode="words") != []
    with pytest.raises(UsageProblem, match="no vectors to search; search its words"):
        opened.search("birds", mode="dense")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60) | st.text("\"*()^-+:{}\\'%;, ORANDNEAR", max_size=20))
def test_no_question_is_an_error(opened, query):
    opened.search(query, k=2)
    for key in ("kind", "path", "source", "title", "heading"):
        opened.search("cats", k=2, where={key: query})


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_question_finds_its_own_words_whatever_stands_around_them(opened, noise):
    assert any("bark" in one.text for one in opened.search(f"{noise} bark", k=99, mode="words"))


def test_a_question_is_its_words():
    assert terms('a "b" AND c* a') == ["a", "b", "and", "c"]
    assert terms(" '\";-- ") == []
    assert len(terms(" ".join(f"w{i}" for i in range(500)))) == 64


@pytest.mark.parametrize("mode", ["words", "dense", "hybrid"])
@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ({"kind": "text"}, lambda one: one.kind == "text"),
        ({"path": "0"}, lambda one: one.file.startswith("0")),
        ({"path": "*4.md"}, lambda one: one.file.endswith("4.md")),
        ({"path": "odd[1].txt"}, lambda one: one.file == "odd[1].txt"),
        ({"source": "1?.md"}, lambda one: one.source[0] == "1"),
        ({"heading": "topic 1"}, lambda one: "Topic 1" in one.heading),
        ({"title": "TOPIC", "path": "03"}, lambda one: one.title == "Topic 3"),
    ],
)
def test_filters(opened, mode, where, holds):
    every = {one.number: one for one in opened.search("cats dogs birds fish", k=99, mode="dense")}
    found = opened.search("cats dogs birds fish", k=99, mode=mode, where=where)
    assert {one.number for one in found} == {number for number, one in every.items() if holds(one)}
    assert found


def test_an_unknown_filter_is_said(opened):
    with pytest.raises(UsageProblem, match=r"no 'headin' to choose by; did you mean heading\?"):
        opened.search("cats", where={"headin": "x"})
    for value in ("x" * 301, "*a" * 9):
        with pytest.raises(UsageProblem, match="no pattern that can be looked for"):
            opened.search("cats", where={"path": value})
    with pytest.raises(UsageProblem, match="k is 0"):
        opened.search("cats", k=0)


def test_reranking_orders_the_best_anew(opened):
    found = opened.search("cats", k=3, rerank=lambda query, texts: [len(text) for text in texts])
    every = opened.search("cats", k=32)
    assert [one.score for one in found] == sorted((float(len(one.text)) for one in every), reverse=True)[:3]


def test_threads_search_at_once(opened):
    expected = {query: opened.search(query) for query in ("cats", "dogs", "fish swim")}
    wrong = []

    def work():
        for _ in range(10):
            wrong.extend(query for query, found in expected.items() if opened.search(query) != found)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_a_build_changes_is_seen_by_the_next_search(docs, tmp_path, place):
    folder = tmp_path / "docs"
    shutil.copytree(docs, folder)
    index(folder, place, toy())
    opened = Index.open(place, embedding=toy())
    assert not opened.search("zebras", mode="words")
    (folder / "new.md").write_text("zebras run")
    (folder / "01.md").unlink()
    index(folder, place, toy())
    for mode in ("words", "dense", "hybrid"):
        assert opened.search("zebras run", mode=mode)[0].source == "new.md"
        assert "01.md" not in {one.source for one in opened.search("dogs bark", 99, mode=mode)}
    index(folder, place, toy(), size=150)  # a file of its own
    other = Index.open(place, embedding=toy())
    assert other.search("zebras run")[0].source == "new.md"


def test_a_run_points_at_its_index(docs, tmp_path):
    index(docs, tmp_path / "stages/ix", toy())
    (tmp_path / "index").write_text("stages/ix\n")
    for path in (tmp_path, tmp_path / "index", tmp_path / "stages/ix"):
        assert Index.open(path, embedding=toy()).search("cats")
    shutil.rmtree(tmp_path / "stages")
    with pytest.raises(DataProblem, match="no index here; make one"):
        Index.open(tmp_path / "index")


def test_an_index_on_a_disk_that_cannot_be_written(docs, tmp_path, monkeypatch):
    index(docs, tmp_path / "made", toy())
    (tmp_path / "ix").mkdir()
    for name in ("index.sqlite", "manifest.json"):
        shutil.copy(tmp_path / "made" / name, tmp_path / "ix")
    monkeypatch.setattr("os.access", lambda *given: False)
    assert Index.open(tmp_path / "ix", embedding=toy()).search("cats")
    assert len(list((tmp_path / "ix").iterdir())) == 2


def test_sources_of_a_text(opened, docs):
    assert opened.sources_of((docs / "03.md").read_text()) == {"03.md"}
    assert opened.sources_of("number7") == {"07.md"}
    assert opened.sources_of("not in it") == set()
