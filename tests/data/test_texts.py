"""Examples of several texts, from record to batch."""

import math

import numpy as np
import pytest
import torch

from didact.data.corpus import in_memory
from didact.data.example import Document, Texts
from didact.data.formats import example
from didact.data.pieces import cut
from didact.data.sets import subset
from didact.data.stream import TokenStream
from didact.errors import DataProblem
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.model.folders import tiny_tokenizer

PAIRS = [
    Texts("a:1", ("what is one", "one is a number", "two is not"), ("query", "document", "document"), 1.0),
    Texts("a:2", ("two", "another number, and a much longer text about it"), ("query", "document"), -2.0),
    Texts("a:3", ("a text", "and the next one"), ("text", "text"), 0.0),
]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train([text for pair in PAIRS for text in pair.texts], 300), prompts={"query": "ask: "})


def test_records_of_pairs():
    pair = example("a:1", {"anchor": "q", "positive": "p", "negatives": ["n", "m"]})
    assert pair == Texts("a:1", ("q", "p", "n", "m"), ("query", "document", "document", "document"), pair.value)
    assert math.isnan(pair.value)
    assert example("a:1", {"anchor": "q", "positive": "p", "negative": "n"}).texts == ("q", "p", "n")
    assert example("a:1", {"sentence1": "a", "sentence2": "b", "score": 3}).value == 3.0


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"anchor": "", "positive": "p"}, "anchor is empty"),
        ({"anchor": "q", "positive": 3}, "positive is"),
        ({"anchor": "q", "positive": "p", "negatives": "n"}, "wanted a list"),
        ({"anchor": "q"}, "needs 'positive'"),
        ({"sentence1": "a", "sentence2": "b", "score": "high"}, "wanted a number"),
        ({"sentence1": "a", "sentence2": "b", "score": True}, "wanted a number"),
    ],
)
def test_records_that_are_no_pair(record, words):
    with pytest.raises(DataProblem, match=words):
        example("a:1", record)


def test_a_row_is_an_example_and_its_documents_are_its_texts(renderer):
    parts, counts = cut([in_memory(PAIRS, renderer)], 64, "window")
    stream = TokenStream(parts, 64, 3, 0, shuffle=False)
    batch = next(stream.start(0))[0]
    assert counts.pieces == batch.size == 3
    assert torch.equal(batch.value, torch.tensor([1.0, -2.0, 0.0]))
    for row, pair in enumerate(PAIRS):
        for number, (text, role) in enumerate(zip(pair.texts, pair.roles, strict=True)):
            here = batch.doc[row] == number
            wanted = renderer.document(text) if role == "text" else renderer.embedded(text, role)
            assert batch.token[row][here].tolist() == wanted.tokens
            assert batch.trained[row][here].tolist() == wanted.trained
            assert batch.position[row][here].tolist() == list(range(len(wanted.tokens)))
        assert int(batch.doc[row].max()) == len(pair.texts) - 1


def test_a_prompt_is_read_and_not_pooled(renderer):
    found = renderer.embedded("two", "query")
    said = [token for token, mark in zip(found.tokens, found.trained, strict=True) if mark]
    assert renderer.decode(found.tokens).startswith("ask: two")
    assert "ask" not in renderer.decode(said)
    assert all(renderer.embedded("two", "document").trained)
    assert Renderer(renderer.tokenizer).key != renderer.key


def test_long_texts_keep_their_last_token_and_are_counted(renderer):
    whole = in_memory(PAIRS, renderer)
    parts, counts = cut([whole], 8, "window")
    assert counts.shortened > 0
    assert any("lost what is beyond" in line for line in counts.lines())
    stream = TokenStream(parts, 8, 3, 0, shuffle=False)
    longer = TokenStream(cut([whole], 64, "window")[0], 64, 3, 0, shuffle=False)
    batch, full = next(stream.start(0))[0], next(longer.start(0))[0]
    for row in range(3):
        for number in range(int(full.doc[row].max()) + 1):
            long, short = full.token[row][full.doc[row] == number], batch.token[row][batch.doc[row] == number]
            kept = long if len(long) <= 8 else torch.cat([long[:7], long[-1:]])
            assert torch.equal(short, kept)


def test_a_part_of_a_corpus_keeps_texts_and_values(renderer):
    whole = in_memory(PAIRS, renderer)
    part = subset(whole, 2, 0)
    assert len(part.value) == 2
    assert set(part.value) < set(whole.value)
    assert len(part.text) == len(part.token) == part.bound[-1]


def test_one_source_does_not_mix_kinds(renderer):
    with pytest.raises(DataProblem, match="one text and of several"):
        in_memory([*PAIRS, Document("b:1", "one")], renderer)


def test_numbers_are_written_in_their_order(renderer):
    assert np.array_equal(in_memory(PAIRS, renderer).value, np.float32([1, -2, 0]))


def test_a_tokenizer_with_a_separator_and_no_end_is_read():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token, tokenizer.sep_token = None, "<eos>"
    assert Renderer(tokenizer).stops == (1,)
    assert Renderer(tokenizer).key
