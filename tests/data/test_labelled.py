"""The labelled texts: each once, of one class, of classes that have enough."""

import pytest

from didact.data.domain.labelled import LEAST, letters, records, words
from didact.errors import DataProblem


def test_letters_are_known_by_their_names():
    found = dict(letters())
    assert [found[letter] for letter in "жλあกა"] == ["cyrillic", "greek", "hiragana", "thai", "georgian"]
    assert len(set(found.values())) > 30


def test_only_words_that_raters_agree_on(tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("good\t1.9\t0.9\t[2]\n:)\t2.0\t1\t[2]\nfine\t0.8\t0.6\t[1]\nawful\t-2.0\t0.4\t[-2]\n")
    assert list(words(lexicon)) == [("good", "positive"), ("awful", "negative")]
    lexicon.write_text("good\t1.9\t0.9\t[2]\ngood\n")
    with pytest.raises(DataProblem, match=r"lexicon.txt:2: not a line of the lexicon; fetch it again"):
        list(words(lexicon))


def test_texts_of_two_classes_and_small_classes_are_left_out():
    many = [(f"{label}{i}", label) for label in "ab" for i in range(LEAST)]
    found = records([*many, ("a0", "b"), ("a1", "a"), *((f"c{i}", "c") for i in range(LEAST - 1)), ("b20", "b")])
    assert {one["label"] for one in found} == {"b"}  # a has lost a text to two classes
    assert len(found) == LEAST + 1
