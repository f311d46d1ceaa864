import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from didact.data import domain
from didact.data.domain import stdlib
from didact.data.domain.gutenberg import LARGEST, chunks, gutenberg
from didact.data.domain.prose import markdown, predicate, sentences, split_call, thing
from didact.data.domain.questions import questions
from didact.data.domain.stdlib import PINNED, plain, split
from didact.data.domain.writing import PROVENANCE, publish
from didact.errors import DataProblem, ResourceProblem, UsageProblem

FILES = ("documents.jsonl", "questions.jsonl", "documents.heldout.jsonl", "questions.heldout.jsonl")
PAIRS = ("pairs.jsonl", "pairs.heldout.jsonl")
ASKED = ("asked.jsonl", "asked.heldout.jsonl")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    # Some functions (cgi.parse) have os.environ for a default: it must not reach the signatures.
    os.environ["DIDACT_TEST_SECRET"] = "hunter2-of-the-suite"
    folder = tmp_path_factory.mktemp("stdlib")
    return folder, domain.build("python-stdlib", folder, 0.1, 7, lambda line: None)


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def entry(doc: str, name: str = "m.f", kind: str = "function", signature: str = "") -> dict[str, str]:
    return {"id": name, "module": "m", "kind": kind, "signature": signature, "doc": doc}


def test_the_same_bytes_every_time(built, tmp_path):
    folder, provenance = built
    again = domain.build("python-stdlib", tmp_path, 0.1, 7, lambda line: None)
    assert again == provenance
    assert all(
        (folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in (*FILES, *PAIRS, *ASKED, PROVENANCE)
    )


def test_counts_are_those_of_a_standard_library(built):
    folder, provenance = built
    counts = {name: len(lines(folder, name)) for name in (*FILES, *PAIRS, *ASKED)}
    assert counts == provenance["counts"]
    total = counts["documents.jsonl"] + counts["documents.heldout.jsonl"]
    assert 3500 < total < 7000
    assert 0.06 < counts["documents.heldout.jsonl"] / total < 0.14
    assert counts["questions.jsonl"] > 2 * counts["documents.jsonl"]
    assert provenance["licence"] == "PSF-2.0"


def test_records_have_the_shapes_that_the_formats_know(built):
    folder, _ = built
    for name in FILES:
        for record in lines(folder, name):
            if name.startswith("documents"):
                assert set(record) == {"text", "id"}
                assert record["text"].strip()
            else:
                assert [each["role"] for each in record["messages"]] == ["user", "assistant"]
                assert all(each["content"] == each["content"].strip() != "" for each in record["messages"])


def test_no_object_is_on_both_sides(built):
    folder, _ = built
    trained = {each["id"] for name in FILES[:2] for each in lines(folder, name)}
    kept_back = {each["id"] for name in FILES[2:] for each in lines(folder, name)}
    assert trained
    assert kept_back
    assert not trained & kept_back


def test_no_held_out_docstring_stands_in_a_training_document_or_answer(built):
    folder, _ = built
    apart = {each["id"] for each in lines(folder, "documents.heldout.jsonl")}
    trained = "\n".join(plain(each["text"]) for each in lines(folder, "documents.jsonl"))
    bodies = {each.id: each.body for each in stdlib.distinct(stdlib.inventory())} | stdlib.language_reference()
    assert apart <= set(bodies)
    answers = "\n".join(plain(each["messages"][1]["content"]) for each in lines(folder, "questions.jsonl"))
    assert [name for name in apart if plain(bodies[name]) in trained or plain(bodies[name]) in answers] == []


def test_no_held_out_answer_or_question_is_trained(built):
    folder, _ = built
    for turn in (0, 1):
        trained = {each["messages"][turn]["content"] for each in lines(folder, "questions.jsonl")}
        kept_back = {each["messages"][turn]["content"] for each in lines(folder, "questions.heldout.jsonl")}
        assert not trained & kept_back


def test_a_pair_is_a_page_and_its_first_sentence_which_names_nothing(built):
    folder, _ = built
    trained, kept_back = (lines(folder, name) for name in PAIRS)
    assert len(trained) > 2000
    assert len(kept_back) > 200
    apart = {each["id"] for each in lines(folder, "documents.heldout.jsonl")}
    assert {each["id"] for each in kept_back} <= apart
    assert not {each["id"] for each in trained} & apart
    for each in [*trained, *kept_back]:
        assert each["positive"].startswith(f"# {each['id']}\n")
        assert each["anchor"] not in each["positive"]
        assert each["id"].rpartition(".")[2].strip("_").lower() not in re.findall(r"\w+", each["anchor"].lower())
    anchors = [each["anchor"] for each in [*trained, *kept_back]]
    assert len(anchors) == len(set(anchors))


def test_a_question_goes_with_the_page_of_its_object(built):
    folder, _ = built
    for suffix in ("", ".heldout"):
        documents = {each["id"]: each["text"] for each in lines(folder, f"documents{suffix}.jsonl")}
        questions = lines(folder, f"questions{suffix}.jsonl")
        for each, question in zip(lines(folder, f"asked{suffix}.jsonl"), questions, strict=True):
            asked = {"anchor": question["messages"][0]["content"], "positive": documents[question["id"]]}
            assert each == {**asked, "id": question["id"]}


def test_every_object_and_every_question_once(built):
    folder, _ = built
    for names in (FILES[::2], FILES[1::2]):
        records = [each for name in names for each in lines(folder, name)]
        keys = [each["text"] if "text" in each else each["messages"][0]["content"] for each in records]
        assert len(keys) == len(set(keys))
    ids = [each["id"] for name in FILES[::2] for each in lines(folder, name)]
    assert len(ids) == len(set(ids))


def test_objects_go_by_their_public_names(built):
    folder, _ = built
    ids = {each["id"] for name in FILES[::2] for each in lines(folder, name)}
    assert {"os.path.join", "json.loads", "str.join", "dict.get", "max", "open", "os.getcwd", "random.choice"} <= ids
    assert not [name for name in ids if name.startswith(("posixpath", "builtins.", "posix.", "_", "idlelib", "test."))]


def test_nothing_of_this_machine_is_written(built):
    folder, _ = built
    text = "".join((folder / name).read_text() for name in (*FILES, PROVENANCE))
    assert not re.search(r"\bat 0x[0-9a-f]{6,}", text)
    assert str(Path.home() / "") not in text
    assert os.environ["DIDACT_TEST_SECRET"] not in text
    assert str(folder) not in text


def test_what_the_quickstart_asks_is_trained(built):
    folder, provenance = built
    asked = {
        each["messages"][0]["content"]: each["messages"][1]["content"] for each in lines(folder, "questions.jsonl")
    }
    answer = asked["What does os.path.join do?"]
    assert answer.startswith("`os.path.join(a, *p)` joins two or more pathname components")
    assert provenance["pinned to training"] == PINNED


def test_the_pinned_object_is_never_held_out_and_the_others_are():
    bodies = {name: f"{name} is documented here, in its own words." for name in (PINNED, "a", "b", "c", "d", "e", "f")}
    held = [split(bodies, 0.5, seed) for seed in range(40)]
    assert all(PINNED not in each for each in held)
    assert set().union(*held) == set(bodies) - {PINNED}


def test_objects_that_share_their_words_share_their_side():
    long = "A paragraph of more than sixty characters that two quite different objects have in common."
    bodies = {PINNED: "Join.", "a": f"One thing.\n\n{long}", "b": f"Another thing.\n\n{long}", "c": "The third thing."}
    sides = [{"a", "b"} & split(bodies, 0.5, seed) for seed in range(40)]
    assert {frozenset(each) for each in sides} == {frozenset(), frozenset({"a", "b"})}


def test_what_a_trained_document_quotes_is_trained():
    bodies = {PINNED: "Join parts. Return the size. And more.", "a": "Return the size.", "b": "Something else."}
    assert all("a" not in split(bodies, 0.9, seed) for seed in range(20))


def test_what_a_trained_answer_would_say_is_trained():
    bodies = {
        PINNED: "Return the size in bytes; raise an error without one.",
        "a": "Returns the size in bytes.",
        "b": "x",
    }
    assert all("a" not in split(bodies, 0.9, seed) for seed in range(20))


@pytest.mark.parametrize(
    "doc",
    [
        "Initialize self.  See help(type(self)) for accurate signature.",
        "Alias for field number 3",
        "Deprecated: use g instead.",
        "This is deprecated since version 3.9.",
        "f(a, b)",
        "Same as g.",
        "Internal: do not use.",
        "Nothing.",
    ],
)
def test_docstrings_that_say_too_little_are_dropped(doc):
    assert thing(entry(doc)) is None


def test_a_signature_in_a_docstring_is_found():
    assert split_call("f", "f(a, b[, c]) -> int\n\nCount things.") == ("(a, b[, c])", "Count things.")
    assert split_call("copy", "D.copy() -> a shallow copy of D")[1].strip() == "Return a shallow copy of D"
    assert split_call("f", "f is a thing") == ("", "f is a thing")


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Copy it and return the copy.", "copies it and returns the copy."),
        ("Recursively delete a tree.", "recursively deletes a tree."),
        ("Returns the size.", "returns the size."),
        ("Called when it ends.", "is called when it ends."),
        ("Copy of the list.", ""),
        ("Hexadecimal string.", ""),
    ],
)
def test_verb_phrases(sentence, said):
    assert predicate(sentence) == said


def test_sentences_know_abbreviations():
    assert list(sentences("Use text, e.g. Unicode. Return it")) == ["Use text, e.g. Unicode.", "Return it."]


def test_examples_are_fenced_and_left_alone():
    body = markdown("Count ``a`` in :class:`m.Text`.\n\n    >>> f('``b``')\n    2\n\nMore *words*.")
    assert body == "Count `a` in `m.Text`.\n\n```pycon\n>>> f('``b``')\n2\n```\n\nMore `words`."


def test_answers_name_the_call_and_what_it_does():
    made = thing(entry("Join two paths.  Return ``str``.", signature="(a, *p, sep='/')"))
    answers = {each["messages"][1]["content"] for each in questions(made, 1, told_apart=True)}
    assert "`m.f(a, *p, sep='/')` joins two paths. It returns `str`." in answers
    assert any("takes `a` and any number of further arguments as `*p`" in each for each in answers)


def test_a_broken_listing_is_a_problem(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(subprocess.TimeoutExpired("python", 1))
    )
    with pytest.raises(DataProblem, match="standard library"):
        stdlib.inventory()


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(UsageProblem, match="no domain 'nowhere'"):
        domain.build("nowhere", tmp_path, 0.1, 0, print)
    with pytest.raises(UsageProblem, match="holdout"):
        domain.build("python-stdlib", tmp_path, 1.0, 0, print)


def test_a_failed_write_leaves_no_provenance_and_no_scraps(tmp_path):
    publish(tmp_path, {"a.jsonl": [{"text": "old"}]}, {})
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ResourceProblem):
        publish(tmp_path, {"a.jsonl": [{"text": "new"}], "b.jsonl": []}, {})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


@pytest.fixture
def books(tmp_path):
    source = tmp_path / "source" / "package"
    source.mkdir(parents=True)
    for book in ("one", "two"):
        chapters = [
            f"CHAPTER {n}\n\n" + "\n\n".join(f"{book} {n} {p} " + "word " * 150 for p in range(9)) for n in range(12)
        ]
        (source / f"{book}.txt").write_text("\r\n\r\n".join(chapters))
    return source


def test_books_come_apart_into_chunks_and_lose_nothing(books, tmp_path):
    provenance = gutenberg(tmp_path / "out", 0.25, 3, books)
    trained, kept_back = (lines(tmp_path / "out", name) for name in FILES[::2])
    assert provenance["counts"] == {"documents.jsonl": len(trained), "documents.heldout.jsonl": len(kept_back)}
    assert len(kept_back) >= 6
    assert all(len(each["text"]) <= LARGEST for each in trained + kept_back)
    ordered = sorted(trained + kept_back, key=lambda each: each["id"])
    words = " ".join(each["text"] for each in ordered if each["id"].startswith("one/")).split()
    assert words == (books / "one.txt").read_text().split()


def test_held_out_chunks_are_neighbours(books, tmp_path):
    gutenberg(tmp_path / "out", 0.25, 3, books)
    for book in ("one", "two"):
        kept = [each["id"] for each in lines(tmp_path / "out", FILES[2])]
        numbers = [int(name.partition("/")[2]) for name in kept if name.startswith(book)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    trained = {each["text"] for each in lines(tmp_path / "out", FILES[0])}
    assert not trained & {each["text"] for each in lines(tmp_path / "out", FILES[2])}


def test_chunks_begin_at_chapters(books):
    pieces = list(chunks((books / "one.txt").read_text()))
    assert all(each.startswith("CHAPTER") for each in pieces)


def test_a_folder_without_books_is_a_problem(tmp_path):
    with pytest.raises(DataProblem, match="no books"):
        gutenberg(tmp_path / "out", 0.1, 0, tmp_path)


def test_a_part_is_split_as_it_is_in_the_whole(built, tmp_path):
    whole, _ = built
    domain.build("python-stdlib", tmp_path, 0.1, 7, lambda line: None, ["os.path"])
    for name in ("documents", "questions", "documents.heldout", "questions.heldout"):
        part, all_of_it = ((folder / f"{name}.jsonl").read_text().splitlines() for folder in (tmp_path, whole))
        assert set(part) <= set(all_of_it)
        assert all(json.loads(line)["id"].startswith("os.path") for line in part)
    assert (tmp_path / "documents.jsonl").stat().st_size > 0


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(UsageProblem, match=r"no documented 'os\.pith'"):
        domain.build("python-stdlib", tmp_path, 0.1, 7, lambda line: None, ["os.pith"])
    with pytest.raises(UsageProblem, match="no parts to choose from"):
        domain.build("gutenberg", tmp_path, 0.1, 7, lambda line: None, ["emma"])
