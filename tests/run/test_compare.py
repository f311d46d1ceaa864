"""A comparison: every arm with every seed, from the same model, measured alike, resumed where it was cut off."""

import json

import pytest

from didact.errors import UsageProblem
from didact.model.load import load
from didact.run import compare as module
from tests.run.test_life import base, world  # noqa: F401 - fixtures

ARMS = "arms: {fast: [{pretrain: {data: docs.jsonl, context: 32, max_steps: 6, learning_rate: 3e-2}}], as_is: []}"
MEASURES = "measures: {held: {loss: {data: held.jsonl, context: 32}}}"
COMPARE = f"{{compare: {{seeds: [0, 1], {ARMS}, {MEASURES}, expect: ['held: fast < as_is']}}}}"


@pytest.fixture
def compared(world):  # noqa: F811
    world.recipe(COMPARE)
    return world


def test_arms_are_measured_with_every_seed(compared, capsys):
    compared.run()
    facts = compared.facts("compare")
    arms = facts["comparison"]["measures"]["held"]["arms"]
    assert len(arms["fast"]) == len(arms["as_is"]) == 2
    assert arms["as_is"][0] == arms["as_is"][1]
    assert arms["fast"][0] != arms["fast"][1]
    assert max(arms["fast"]) < min(arms["as_is"])
    assert compared.breaches == []
    shown = capsys.readouterr().out
    assert "holds in 2 of 2 seeds" in shown
    assert "seed 1" in shown
    page = (compared.folder / "runs/r/report.html").read_text()
    assert "Side by side" in page
    assert "holds in 2 of 2 seeds" in page


def test_it_leaves_the_first_arms_first_model_alone(compared):
    compared.run()
    assert load(compared.model, dtype=None or __import__("torch").float32)
    left = [path.parent.name for path in (compared.folder / "runs/r/stages").rglob("model") if path.is_dir()]
    assert len(left) == 1
    assert compared.run() == ["compare"]


def test_what_does_not_hold_is_a_breach(compared):
    compared.run("compare.expect=['held: fast > as_is']")
    assert compared.breaches == ["held: fast > as_is"]


def test_a_comparison_cut_off_goes_on_where_it_was(compared, monkeypatch):
    whole = module.compare

    def cut(stage, life, folder):
        whole(stage, life, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr("didact.run.life.compare", cut)
    with pytest.raises(KeyboardInterrupt):
        compared.run()
    monkeypatch.setattr("didact.run.life.compare", whole)
    assert compared.run() == ["pretrain", "measures"] * 2 + ["measures"]  # the model as it is has no seed


def test_measures_of_a_single_model(world, capsys):  # noqa: F811
    world.recipe(ARMS[len("arms: {fast: [") : -len("], as_is: []}")], f"{{evaluate: {{{MEASURES}}}}}")
    world.run()
    number = world.facts("evaluate")["measures"]["held"]
    assert number["value"] < number["before"]
    assert number["unit"] == "nats"
    assert "held  nats" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("compare.measures.held={los: held.jsonl}", "unknown measure 'los'"),
        ("compare.measures.held={loss: {data: held.jsonl, objctive: causal}}", "no option 'objctive'"),
        ("compare.measures.held={loss: held.json}", "held.json"),
    ],
)
def test_a_wrong_measure_is_said_before_anything_runs(compared, override, words):
    with pytest.raises(Exception, match=words):
        compared.run(override)
    assert compared.stages() == []


def test_an_arm_without_stages_needs_a_model(world):  # noqa: F811
    world.recipe("{tokenizer: {data: docs.jsonl, vocab_size: 300}}", COMPARE, base="{architecture: qwen3, size: 1M}")
    with pytest.raises(UsageProblem, match="there is none yet"):
        world.run()


def test_the_record_is_json(compared):
    compared.run()
    (folder,) = compared.stages("compare")
    assert json.loads((folder / "done.json").read_text())["facts"]["trained"][0]["name"] == "fast, seed 0: pretrain"
