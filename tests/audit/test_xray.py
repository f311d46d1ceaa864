"""The X-ray shows what is trained, counts what went missing, and says so with or without colours."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from didact.audit import xray
from didact.data.corpus import Corpus
from didact.data.pieces import Counts
from didact.errors import DataProblem
from didact.model.save import save_model
from didact.text.render import Renderer
from tests.model.folders import tiny, tiny_tokenizer
from tests.rollout.test_text import sentencepiece

EOS, BOS = 1, 0


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "cache"))
    save_model(tiny(), tiny_tokenizer(), tmp_path / "base")
    return tmp_path


def inspect(world, records, stage="finetune: {data: data.jsonl, context: 512}", say=lambda line: None):
    (world / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (world / "recipe.yaml").write_text(f"name: r\nbase: ./base\nstages:\n  - {stage}\n")
    return xray.inspect_recipe(world / "recipe.yaml", [], world / "runs", say)


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def corpus(*documents):
    """Documents as (tokens, trained) lists."""
    lengths = [len(tokens) for tokens, _ in documents]
    return Corpus(
        np.concatenate([tokens for tokens, _ in documents]).astype(np.int32),
        np.concatenate([trained for _, trained in documents]).astype(np.bool_),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.asarray(lengths, np.int64),
    )


def trained_text(example):
    return "".join(text for text, trained in example.spans() if trained)


# --- what is shown -----------------------------------------------------------------------------------------


def test_before_any_training_the_answer_and_its_end_are_what_is_trained(world, capsys):
    found = inspect(
        world, [chat(("user", "Hi [[you]]?"), ("assistant", "Hello é😀"), ("user", "So?"), ("assistant", "Yes."))]
    )
    assert len(found) == 1
    assert [text for text, trained in found[0].examples[0].spans() if trained] == ["Hello é😀<eos>", "Yes.<eos>"]
    shown = capsys.readouterr().out
    assert "[[Hello é😀<eos>]]" in shown
    assert "[[trained]] · read only" in shown
    assert "\x1b" not in shown
    assert not (world / "runs" / "r" / "stages").exists()


def test_the_page_marks_what_is_trained_and_escapes_the_data(world):
    inspect(world, [chat(("user", "<script>alert(1)</script>"), ("assistant", "<b>No</b>"))])
    page = (world / "runs" / "r" / "inspect.html").read_text()
    assert "<mark>&lt;b&gt;No&lt;/b&gt;&lt;eos&gt;</mark>" in page
    assert "<script>" not in page


def test_a_terminal_gets_colours_and_no_marks():
    out = io.StringIO()
    one = xray.Xray(
        "s", "t", Counts(), 1, 1, 1.0, 0, 0, 0, (xray.Example((("read\x1b]0;title\x07", False), ("taught", True))),)
    )
    xray.draw(one, Console(file=out, force_terminal=True, color_system="standard"))
    assert re.search(r"\x1b\[32mtaught", out.getvalue())
    assert "[[" not in out.getvalue()
    assert "\x1b]0" not in out.getvalue(), "data may not steer the terminal"


def test_long_lines_are_not_broken_when_piped(world, capsys):
    inspect(world, [chat(("user", "?"), ("assistant", "word " * 50 + "end"))])
    assert "word " * 50 + "end<eos>]]" in capsys.readouterr().out


def test_of_a_long_document_beginning_and_end_are_shown():
    renderer = Renderer(tiny_tokenizer())
    rendered = renderer.document("a" * 1000 + "THE END")
    example = xray.show(corpus((rendered.tokens, rendered.trained)), 0, renderer)
    text = "".join(text for text, _ in example.spans())
    hidden = 1008 - xray.LONGEST
    assert text.startswith("a" * 200 + f" … {hidden} tokens, {hidden} of them trained … ")
    assert text.endswith("THE END<eos>")
    assert len(text) < 600


def test_runs_keep_their_leading_space():
    """A SentencePiece decoder drops the space before a text that begins; here no run but the first begins one."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece(), eos_token="<unk>")
    ids = np.asarray(tokenizer("a bad face a", add_special_tokens=False)["input_ids"])
    trained = np.zeros(len(ids), bool)
    trained[2:5] = True
    pieces = xray.spans(ids, trained, Renderer(tokenizer))
    assert "".join(text for text, _ in pieces) == "a bad face a"
    assert len(pieces) == 3


def test_a_character_between_two_runs_is_shown_once():
    renderer = Renderer(tiny_tokenizer())
    ids = np.asarray(renderer.document("a😀b").tokens)
    trained = np.arange(len(ids)) >= 3
    assert xray.spans(ids, trained, renderer) == (("a", False), ("😀b<eos>", True))


def test_every_source_of_a_mixture_is_shown():
    one, other = corpus(([5], [True]), ([6], [True])), corpus(([7], [True]))
    assert [(c is one, i) for c, i in xray.first([one, other], 3)] == [(True, 0), (False, 0), (True, 1)]


# --- what is counted ---------------------------------------------------------------------------------------


def test_missing_ends_are_counted():
    planted = corpus(
        ([5, 6, EOS], [False, True, True]),
        ([5, 6, EOS], [False, True, False]),  # the end is there and is not learned
        ([5, 6, 7], [True, True, True]),
        ([5, 6, 7], [False, False, False]),  # nothing trained: another count
        ([5, EOS, 7, 8], [False, True, False, False]),
    )
    assert xray.missing_end(planted, (EOS,)) == 2


def test_double_starts_are_counted():
    planted = corpus(
        ([BOS, BOS, 5], [True] * 3), ([BOS, 5, BOS], [True] * 3), ([BOS], [True]), ([BOS, BOS], [True] * 2)
    )
    assert xray.double_start(planted, BOS) == 2
    assert xray.double_start(planted, None) == 0


def test_examples_without_a_trained_token_are_counted():
    planted = corpus(([5, 6], [False, False]), ([5, 6], [False, True]), ([7], [False]))
    assert xray.untrained(planted) == 2


def test_worries_are_marked():
    one = xray.Xray("s", "t", Counts(documents=9, tokens=9, trained=1), 1, 1, 1.0, 1_000, 2, 3, ())
    assert sum(line.startswith("! ") for line in one.lines()) == 3
    assert "! 1,000 examples end without an end-of-sequence or end-of-turn token that is trained" in one.lines()
    healthy = xray.Xray("s", "t", Counts(documents=9, tokens=9, trained=1), 1, 1, 1.0, 0, 0, 0, ())
    assert not any(line.startswith("!") for line in healthy.lines())


def test_a_template_that_opens_twice_is_caught_end_to_end(world):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    save_model(tiny(), tokenizer, world / "base")
    assert inspect(world, [chat(("user", "?"), ("assistant", "!"))] * 3)[0].double_start == 3


def test_overlong_conversations_are_dropped_and_said(world, capsys):
    short, long = chat(("user", "?"), ("assistant", "!")), chat(("user", "?"), ("assistant", "word " * 200))
    found = inspect(world, [short, long, short])
    assert found[0].counts.dropped_overlong == 1
    assert "1 examples longer than the context were dropped (overlong: drop)" in capsys.readouterr().out


def test_overlong_documents_are_windowed_and_said(world, capsys):
    found = inspect(world, [{"text": "word " * 200}, {"text": "short"}], "pretrain: {data: data.jsonl, context: 64}")
    assert found[0].counts.windowed == 1
    assert "1 examples longer than the context were cut into windows" in capsys.readouterr().out


@pytest.mark.parametrize(
    "record",
    [
        chat(("user", "?"), ("assistant", "word " * 200)),
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "weight": 0}]},
    ],
)
def test_nothing_trained_is_an_error(world, record):
    with pytest.raises(DataProblem, match=r"data\.jsonl") as caught:
        inspect(world, [record] * 3)
    assert caught.value.code == 3
    assert "; " in str(caught.value), "no remedy"
