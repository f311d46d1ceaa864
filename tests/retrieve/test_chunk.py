"""Where documents are cut: every character in its place, nothing lost, nothing too long."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from didact.retrieve.chunk import cut
from didact.retrieve.load.code import code, python
from didact.retrieve.load.html import html
from didact.retrieve.load.markdown import markdown, plain
from didact.retrieve.load.notebook import notebook

LINES = st.sampled_from(
    [
        *("# One", "## Two ##", "###### Six", "#nothing", "Title", "=====", "---", "", "", "```", "```python", "~~~~"),
        *("def f():", "    return 1", "class A:", "@wraps", "# note", "- item", "A sentence. Another! " * 9, "x" * 300),
        *("日本語の文。" * 40, "\t\tindented", " ", "word " * 60, "\u2028", "a\u0301\u0301"),
        *("<pre>", "</pre>", "<pre></pre>", "<h2>", "</h2>", "<h1>x</h1>", "<p>", "<main>"),
    ]
)
TEXTS = st.one_of(st.lists(LINES, max_size=30).map("\n".join), st.text(max_size=400))
READERS = {"plain": plain, "markdown": markdown, "code": code, "python": python, "html": lambda text: html(text, "")}


def covered(document, spans):
    inside = [False] * len(document.text)
    for span in spans:
        inside[span.start : span.end] = [True] * (span.end - span.start)
    return "".join(c for c, kept in zip(document.text, inside, strict=True) if not kept)


@pytest.mark.parametrize("reader", READERS)
@settings(deadline=None, max_examples=60)
@given(text=TEXTS, size=st.integers(80, 300), share=st.integers(0, 3))
def test_passages_hold_all_text_in_order_and_within_bounds(reader, text, size, share):
    document = READERS[reader](text)
    spans = cut(document, size, share * size // 9)
    assert not covered(document, spans).strip()
    for span in spans:
        assert 0 < span.end - span.start <= size
        assert document.text[span.start : span.end].strip()
    for one, two in pairwise(spans):
        assert one.start < two.start
        assert one.end < two.end
        assert one.end - two.start <= share * size // 9


@settings(deadline=None, max_examples=40)
@example("# One\n=====")
@given(text=TEXTS)
def test_blocks_are_in_order_and_hold_all_text(text):
    for reader in READERS.values():
        document = reader(text)
        places = [place for block in document.blocks for place in (block.start, block.end)]
        assert places == sorted(places)
        assert places[-1:] <= [len(document.text)]
        assert not covered(document, document.blocks).strip()


@settings(deadline=None, max_examples=30)
@given(cells=st.lists(st.tuples(st.booleans(), TEXTS), max_size=4))
def test_cells_of_notebooks_too(cells):
    import orjson

    made = [{"cell_type": "code" if is_code else "markdown", "source": [text]} for is_code, text in cells]
    document = notebook(orjson.dumps({"cells": made}).decode(), "n")
    assert not covered(document, cut(document, 100, 20)).strip()


def test_a_heading_stays_with_what_follows_it():
    text = f"{'word ' * 30}\n\n# Heading\n\n{'other ' * 30}"
    first, second = cut(markdown(text), 200, 0)
    assert text[second.start :].startswith("# Heading\n\nother")
    assert (first.path, second.path) == ((), ("Heading",))


def test_a_heading_over_a_long_paragraph_stays_with_its_beginning():
    text = f"# Heading\n\n{'word ' * 200}"
    spans = cut(markdown(text), 200, 0)
    assert text[: spans[0].end].startswith("# Heading\n\nword word")
    assert len(spans) > 4


def test_code_stays_whole_when_it_fits():
    block = "```\n" + "x = 1\n\n" * 20 + "```"
    text = f"# A\n\n{'word ' * 25}\n\n{block}\n\nafter"
    spans = cut(markdown(text), 180, 20)
    assert any(block in text[span.start : span.end] for span in spans)


def test_what_goes_on_repeats_the_end_of_what_was_before():
    text = " ".join(f"word{i}" for i in range(200))
    spans = cut(plain(text), 200, 40)
    for one, two in pairwise(spans):
        assert 0 < one.end - two.start <= 40
        assert text[two.start - 1] == " "


def test_a_section_begins_afresh():
    text = "".join(f"# S{i}\n\n{'word ' * 25}\n\n" for i in range(4))
    spans = cut(markdown(text), 200, 50)
    assert [text[span.start :].split("\n")[0] for span in spans] == ["# S0", "# S1", "# S2", "# S3"]


def test_small_sections_share_a_passage():
    text = "# A\n\none\n\n## B\n\ntwo\n\n## C\n\nthree"
    (span,) = cut(markdown(text), 200, 0)
    assert span.path == ("A",)


def test_sentences_are_cut_at_their_ends():
    text = "This is a sentence of some length. " * 20
    assert all(text[span.start : span.end].endswith(".") for span in cut(plain(text), 120, 0))
