"""``didact feedback``, and recipes that learn from what people said."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from didact.cli import app
from didact.cli_feedback import Form
from didact.data.example import Answers, Conversation
from didact.data.settings import Data
from didact.data.source import examples, fingerprint
from didact.errors import DataProblem, ResourceProblem, UsageProblem
from didact.feedback.jsonl import FORMS
from didact.feedback.records import Edit
from didact.feedback.store import Store
from didact.run.command import run_recipe
from tests.battery.base import make_base
from tests.feedback.samples import exchange, ranking, rating, thumb


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIDACT_FEEDBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


@pytest.fixture
def store(here):
    """The default store with a little of everything."""
    with Store.open() as store:
        asked = store.add(exchange("one", "two", prompt="Which?"))
        for name in ("ann", "bob"):
            store.add(thumb(asked, name, reason="clear"))
            store.add(rating(asked, name, stars=4))
            store.add(ranking(asked, [1], [0], annotator=name))
        store.add(Edit(exchange=asked.id, annotator="ann", text="three"))
        yield store


def verb(*arguments) -> None:
    app(["feedback", *arguments], standalone_mode=False)


# --- the command line --------------------------------------------------------------------------------------


def test_records_are_listed(store, capsys):
    verb("list")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "2 answers to Which?" in lines[0]
    assert "ann" in lines[1]
    assert "up for 0 of" in lines[1]
    verb("list", "--kind", "ranking", "--last", "1")
    (line,) = capsys.readouterr().out.splitlines()
    assert "bob" in line
    assert "1 > 0 of" in line


def test_every_format_can_be_asked_for():
    assert get_args(Form) == FORMS


def test_export_and_import_go_round(store, capfdbinary, here):
    verb("export")
    whole = capfdbinary.readouterr().out
    verb("export", "--output", "all.jsonl")
    assert (here / "all.jsonl").read_bytes() == whole
    with pytest.raises(ResourceProblem, match="File exists"):
        verb("export", "--output", "all.jsonl")
    verb("import", "all.jsonl", "--store", "copy.sqlite")
    verb("import", "all.jsonl", "--store", "copy.sqlite")
    capfdbinary.readouterr()
    verb("export", "--store", "copy.sqlite")
    assert capfdbinary.readouterr().out == whole
    verb("export", "--format", "sft")
    assert json.loads(capfdbinary.readouterr().out)["messages"][-1]["content"] == "three"


def test_a_wrong_file_is_said_with_its_line(here):
    (here / "f.jsonl").write_text('{"prompt": "a", "completion": "b", "label": true}\n{"text": "a"}\n')
    with pytest.raises(DataProblem, match=r"f.jsonl:2: fields text are of no known format"):
        verb("import", "f.jsonl")


def test_the_report(store, capsys):
    verb("report")
    said = capsys.readouterr().out
    for part in ("Records of 2 annotators", "judged by several", "Wins against other models", "leniency", "0.5 is"):
        assert part in said
    verb("report", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["win_rates"]["b"]["rate"] == 1
    assert found["agreement"]["ranking"]["judged_by_several"] == 1


def test_a_person_is_forgotten(store, capsys):
    verb("forget", "ann")
    assert "ann: 4 records removed" in capsys.readouterr().err
    assert "ann" not in {getattr(kept.record, "annotator", None) for kept in store.each()}


def test_prompts_and_exchanges_are_put_into_the_queue(store, capsys, here):
    asked = next(store.each("exchange")).id
    lines = [
        {"prompt": "Why?"},
        {"prompt": [{"role": "user", "content": "Who?"}]},
        {"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]},
    ]
    (here / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    (here / "m.jsonl").write_text(json.dumps(lines[2]) + "\n")
    for _ in range(2):
        verb("enqueue", "p.jsonl", "m.jsonl", "--exchange", asked, "--wanted", "3")
    ids = capsys.readouterr().out.split()
    items = list(store.each("review"))
    assert ids == [kept.id for kept in items] * 2
    assert [kept.record.prompt and kept.record.prompt[-1].content for kept in items] == ["Why?", "Who?", "How?", None]
    assert {kept.record.wanted for kept in items} == {3}
    (here / "t.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataProblem, match=r"t.jsonl:1: this record has no prompt"):
        verb("enqueue", "t.jsonl")
    with pytest.raises(UsageProblem, match="nothing to put"):
        verb("enqueue")


@pytest.mark.parametrize("words", [["list"], ["export"], ["report"], ["forget", "ann"]])
def test_a_store_that_is_not_there_is_not_made(here, words):
    with pytest.raises(UsageProblem, match=r"runs/feedback.sqlite: there is no feedback store; serve"):
        verb(*words)
    assert list(here.iterdir()) == []


def test_from_the_shell(store, here):
    environment = {**os.environ, "DIDACT_FEEDBACK": "nowhere.sqlite", "PYTHONPATH": os.pathsep.join(sys.path)}

    def shell(*words) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "didact", "feedback", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = shell("report")
    assert done.returncode == 2
    assert done.stderr.startswith("didact: nowhere.sqlite: there is no feedback store; serve a model")
    assert shell("export", "--store", "runs/feedback.sqlite").stdout.count("\n") == 8
    assert shell("repor").stderr.endswith("Did you mean 'report', 'export'?; see didact feedback --help\n")


# --- in a recipe -------------------------------------------------------------------------------------------


def read(path):
    (source,) = examples(Data.model_validate(path), {}, 0)
    return list(source)


def test_what_each_name_gives(store):
    chats = read("feedback")
    assert [type(one) for one in chats] == [Conversation] * 3
    assert [one.messages[-1]["content"] for one in chats] == ["one", "one", "three"]
    assert chats == read("feedback:good") == read("feedback@runs/feedback.sqlite")
    (edit,) = read("feedback:edits")
    assert edit.messages[-1]["content"] == "three"
    assert [(one.values, len(one.answers)) for one in read("feedback:thumbs")] == [((1.0,), 1)] * 2
    assert [one.values for one in read("feedback:ratings")] == [(4.0,)] * 2
    assert [one.values for one in read("feedback:rankings")] == [(-1.0, 0.0)] * 2
    preferences = read("feedback:preferences")
    assert all(isinstance(one, Answers) for one in preferences)
    assert [one.answers[0][0]["content"] for one in preferences] == ["two", "two", "three"]
    assert edit.where.startswith("feedback:")
    assert len(read("feedback:thumbs#1")) == 1


def test_the_fingerprint_is_what_it_gives(store):
    def prints():
        return [fingerprint(Data.model_validate(f"feedback:{kind}"), {}) for kind in ("edits", "thumbs")]

    before = prints()
    assert prints() == before
    store.add(thumb(next(store.each("exchange")), "eve"))
    after = prints()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_source_is_read_once_though_the_store_grows(store):
    (source,) = examples(Data.model_validate("feedback:thumbs"), {}, 0)
    first, known = list(source), source.fingerprint
    store.add(thumb(next(store.each("exchange")), "eve"))
    assert list(source) == first
    assert source.fingerprint == known


def test_names_that_give_nothing_are_said(here):
    with pytest.raises(UsageProblem, match=r"runs/feedback.sqlite: there is no feedback store; serve a model"):
        read("feedback")
    with pytest.raises(UsageProblem, match="no feedback of the kind 'thumb'; did you mean feedback:thumbs"):
        read("feedback:thumb")
    Store.open().close()
    with pytest.raises(DataProblem, match="feedback:edits: the feedback store holds no edits yet"):
        read("feedback:edits")
    with pytest.raises(DataProblem, match="feedback: the feedback store holds no edits and no thumbs up yet"):
        read("feedback")
    (here / "feedback").mkdir()
    with pytest.raises(UsageProblem, match=r"write ./feedback for the one, feedback:good for the other"):
        read("feedback")


FINETUNE = "{{finetune: {{data: {data}, context: 64, batch_size: 2, max_steps: 1}}}}"


def test_a_recipe_learns_from_feedback_and_again_when_there_is_more(store, here, monkeypatch):
    monkeypatch.setenv("DIDACT_CACHE", str(here / "cache"))
    make_base(here / "base")
    said: list[str] = []

    def run(data: str) -> bool:
        """Whether something was trained."""
        Path("recipe.yaml").write_text(f"name: r\nbase: ./base\nstages: [{FINETUNE.format(data=data)}]\n")
        said.clear()
        run_recipe(Path("recipe.yaml"), (), Path("runs"), said.append)
        return "finetune: finished before, skipped" not in said

    assert run("feedback")
    assert not run("feedback")
    store.add(thumb(next(store.each("exchange")), "eve", candidate=1))
    assert run("feedback")
    assert run("feedback:edits")
    with pytest.raises(DataProblem, match=r"feedback:\w+: answers that people judged, and nothing here learns from"):
        run("feedback:rankings")
