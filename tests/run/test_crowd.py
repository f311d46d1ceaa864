"""The stage crowd: a model's answers judged by simulated people, as data of the next stage and as a store."""

import json
import math
from pathlib import Path

import pytest

from didact.data.example import Answers
from didact.data.settings import Data
from didact.data.source import examples
from didact.engine.mesh import Mesh, pick_device
from didact.errors import DataProblem, UsageProblem
from didact.feedback.crowd import member
from didact.recipe import load
from didact.rollout.reward.base import Answered
from didact.rollout.reward.crowd import People, Wanted
from didact.run.crowd import _given
from didact.run.feedback import report
from didact.run.folder import run_folder
from didact.run.life import Life
from tests.battery.base import chats, lines
from tests.run.test_life import base, world  # noqa: F401 - fixtures

CROWD = "{crowd: {data: many.jsonl, tastes: {length: -1.0, 'says:red': 1.0}, members: 4, heldout: 2, each: 2, \
answers: 3, max_new_tokens: 4, holdout: 0.3}}"


@pytest.fixture
def asked(world):  # noqa: F811
    (world.folder / "many.jsonl").write_text(chats(30))
    world.recipe(CROWD, more="device: cpu\n")
    return world


def left(world) -> dict[str, Path]:  # noqa: F811
    (folder,) = world.stages("crowd")
    return {path.name: path for path in folder.iterdir()}


def test_what_people_say_is_data_and_a_store(asked, capsys):
    asked.run()
    files, facts = left(asked), asked.facts("crowd")
    assert facts["prompts"] == 30
    judged = [line for name in ("thumbs", "thumbs.heldout") for line in files[f"{name}.jsonl"].read_text().splitlines()]
    assert len(judged) == 60
    for name in ("thumbs", "ratings", "rankings", "preferences", "prompts", "thumbs.heldout"):
        (found,) = examples(Data.model_validate(str(files[f"{name}.jsonl"])), {}, 0)
        assert list(found)
    assert list(next(iter(examples(Data.model_validate(f"feedback:thumbs@{files['store.sqlite']}"), {}, 0))))
    assert facts["judgements"] + facts["judgements.heldout"] == 30 * 2 * 3
    capsys.readouterr()
    report(str(files["store.sqlite"]), json=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told["annotators"]) == {"m00", "m01", "m02", "m03"}
    assert told["agreement"]["thumb"]["alpha"] == facts["agreement"]["thumb"]


def test_nobody_hears_of_what_is_held_out(asked):
    asked.run()
    files = left(asked)
    asks = {
        mark: {json.loads(line)["messages"][0]["content"] for line in files[f"prompts{mark}.jsonl"].open()}
        for mark in ("", ".heldout")
    }
    assert not asks[""] & asks[".heldout"]
    assert len(asks[""] | asks[".heldout"]) == 30
    names = {mark: {json.loads(line)["name"] for line in files[f"people{mark}.jsonl"].open()} for mark in asks}
    assert names == {"": {"m00", "m01", "m02", "m03"}, ".heldout": {"h00", "h01"}}


def test_the_same_seed_says_the_same(asked):
    asked.run()
    wanted = ("thumbs.jsonl", "rankings.heldout.jsonl", "people.jsonl")
    first = [left(asked)[name].read_bytes() for name in wanted]
    (left(asked)["done.json"]).unlink()
    asked.run()
    assert [left(asked)[name].read_bytes() for name in wanted] == first
    assert asked.run() == ["crowd"]


def test_answers_of_the_data_are_judged_as_they_are(asked):
    given = [{"prompt": f"q{i}", "chosen": "It is red.", "rejected": "It is " * 9} for i in range(20)]
    (asked.folder / "many.jsonl").write_text(lines(given))
    asked.run("crowd.error=0", "crowd.spread=0", "crowd.first=0", "crowd.judgements=[ranking]")
    pairs = [json.loads(line) for line in left(asked)["preferences.jsonl"].open()]
    assert {pair["chosen"][0]["content"] for pair in pairs} == {"It is red."}
    assert "thumbs.jsonl" not in left(asked)


def test_a_later_stage_learns_from_it(asked):
    (asked.folder / "many.jsonl").write_text(chats(30))
    finetune = "{finetune: {data: crowd/prompts, context: 72, batch_size: 2, max_steps: 1, forgetting: false}}"
    asked.recipe(CROWD, finetune, more="device: cpu\n")
    asked.run()
    assert asked.run() == ["crowd", "finetune"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("crowd.heldout=0", "give heldout and holdout, or neither"),
        ("crowd.each=9", "9 members cannot judge each prompt, there are 4"),
        ("crowd.tastes={colour: 1}", "a taste is one of length, polite, code, correct or says:WORD"),
        ("crowd.holdout=0.001", "of 30 prompts none is held out"),
    ],
)
def test_a_crowd_that_cannot_be_is_one_line(asked, change, what):
    with pytest.raises(UsageProblem, match=what):
        asked.run(change)


def test_without_a_model_there_is_nobody_to_answer(asked):
    tokenizer = "{tokenizer: {data: docs.jsonl, vocab_size: 300}}"
    asked.recipe(tokenizer, CROWD, base="{architecture: llama, size: 60k}", more="device: cpu\n")
    with pytest.raises(UsageProblem, match="there is no model to crowd yet"):
        asked.run()


def test_what_nobody_judged_is_no_reference():
    given = Answers("a", "p", ("one", "two", "three"), (math.nan, 1.0, 0.0))
    assert _given(given).reference == "two"


@pytest.mark.parametrize("text", ["", "{\n", '{"bad": 1}\n', "[1]\n"])
def test_people_who_are_none_are_one_line(tmp_path, text):
    (tmp_path / "people.jsonl").write_text(text)

    class Files:
        def file(self, name):
            return tmp_path / name

    with pytest.raises(DataProblem, match=r"people.jsonl(:1)?: (this is nobody|nobody stands)"):
        People(people="people.jsonl").open(Files())


def test_people_who_were_not_heard_judge_a_model(asked):
    wins = "{win_rate: {data: crowd/prompts.heldout, rewards: [{crowd: crowd/people.heldout}], max_new_tokens: 4}}"
    asked.recipe(CROWD, "{evaluate: {measures: {wins: %s}, against: none}}" % wins, more="device: cpu\n")  # noqa: UP031
    asked.run()
    assert asked.facts("evaluate")["measures"]["wins"]["value"] == 0.5
    people = left(asked)["people.heldout.jsonl"]
    found = Wanted("c", [member(json.loads(line)) for line in people.open()])
    short, long = (Answered((), text, {}) for text in ("red", "word " * 90))
    assert found([short])[0] > found([long])[0]


def test_what_needs_the_trained_model_is_passed_over_before_it_is_there(asked):
    learn = "context: 64, batch_size: 2, max_steps: 1"
    finetune = f"{{finetune: {{data: chats.jsonl, {learn}}}}}"
    align = f"{{align: {{data: crowd/thumbs, objective: kto, {learn}}}}}"
    asked.recipe(finetune, CROWD, align, more="device: cpu\n")
    said: list[str] = []
    recipe = load(Path("recipe.yaml"), []).recipe
    life = Life(recipe, run_folder(Path("runs"), "r"), Mesh(pick_device("cpu")), said.append, Path("cache"))
    assert [stage.name for stage in life.without_training()] == ["finetune"]
    assert "align: reads crowd/thumbs, which needs the trained model; passed over" in said
