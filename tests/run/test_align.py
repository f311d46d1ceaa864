"""The stage align: judged answers of every form, what is said of them beforehand, references, and what resumes."""

import json
import math

import numpy as np
import pytest
import torch

from didact.errors import DataProblem, UsageProblem
from didact.recipe.aligning import Align
from tests.battery.base import lines
from tests.run.test_life import base, world  # noqa: F401 - fixtures

HOW = "context: 96, batch_size: 4, max_steps: 3, precision: fp32, forgetting: false, learning_rate: 1e-3"


def pairs(count: int = 12) -> str:
    return lines([{"prompt": f"Say {n}", "chosen": f"Sure, {n}.", "rejected": "No."} for n in range(count)])


def thumbs(count: int = 12, **more) -> str:
    """One in four is liked."""
    given = [{"prompt": f"Say {n}", "completion": f"It is {n}.", "label": n % 4 == 0, **more} for n in range(count)]
    return lines(given)


def metrics(world, name="align") -> list[dict]:  # noqa: F811
    (folder,) = world.stages(name)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def asked(world):  # noqa: F811
    (world.folder / "pairs.jsonl").write_text(pairs())
    (world.folder / "thumbs.jsonl").write_text(thumbs())
    return world


def align(asked, what: str) -> None:
    asked.recipe(f"{{align: {{{what}, {HOW}}}}}", more="device: cpu\n")


def test_dpo_starts_at_log_two_and_leaves_a_model(asked):
    align(asked, "data: pairs.jsonl")
    asked.run()
    first, *_, last = [line for line in metrics(asked) if "gauge/dpo/margin" in line]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["gauge/dpo/margin"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < first["loss"]
    assert asked.facts("align")["judgements"]["dpo"]["pairs"] == 12
    assert any("12 pairs of answers to 12 prompts, 0 ties" in line for line in asked.said)
    assert any("the longer one won 100%" in line for line in asked.said)
    assert asked.run() == ["align"]  # finished, and known as such


def test_a_model_with_dropout_is_held_against_its_reference_without(asked):
    config = asked.folder / "base/config.json"
    config.write_text(config.read_text().replace('"attention_dropout": 0.0', '"attention_dropout": 0.5'))
    assert '"attention_dropout": 0.5' in config.read_text()
    align(asked, "data: pairs.jsonl")
    asked.run("align.max_steps=1")
    first = next(line for line in metrics(asked) if "gauge/dpo/margin" in line)
    assert first["gauge/dpo/margin"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("how", "steps", "wanted"), [("on", 3, True), ("auto", 3, False), ("auto", 400, True)])
def test_a_reference_is_compiled_where_the_model_in_training_is(asked, monkeypatch, how, steps, wanted):
    """What rounds otherwise is no reference: in bf16 the first margins of long answers were nats from zero."""
    asked_for = {}

    def of(name):
        def recorded(model, wanted=True):
            asked_for[name] = wanted
            if name == "training":
                raise Found
            return model

        return recorded

    class Found(Exception):
        pass

    monkeypatch.setattr("didact.run.teach.compiled", of("reference"))
    monkeypatch.setattr("didact.engine.train.compiled", of("training"))
    align(asked, "data: pairs.jsonl")
    with pytest.raises(Found):
        asked.run(f"align.compile={how!r}", f"align.max_steps={steps}")
    assert asked_for == {"reference": wanted, "training": wanted}


@pytest.mark.parametrize(("rate", "told"), [("1e-7", True), ("1e-2", False)])
def test_a_rate_that_bf16_loses_is_said(asked, rate, told):
    align(asked, "data: pairs.jsonl")
    asked.run("align.precision=bf16", "align.max_steps=1", f"align.learning_rate={rate}")
    assert any("in bf16 leaves" in line for line in asked.said) == told


@pytest.mark.slow
def test_compiled_bf16_starts_at_log_two_too(asked):
    align(asked, "data: pairs.jsonl")
    asked.run("align.compile='on'", "align.precision=bf16")
    assert metrics(asked)[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_a_reference_is_read_once_and_kept(asked):
    align(asked, "data: pairs.jsonl")
    asked.run()
    (columns,) = (asked.folder / "cache/teacher").iterdir()
    found = np.load(columns / "reference.npy")
    assert (found < 0).all()
    asked.run("align.learning_rate=1e-4")
    asked.run("align.objective=ipo")
    assert len(list((asked.folder / "cache/teacher").iterdir())) == 1


@pytest.mark.parametrize("objective", ["ipo", "pl_dpo", "simpo", "orpo"])
def test_rankings_feed_every_objective(asked, objective):
    ranked = {"prompt": "Say it", "completions": ["One.", "Two, two.", "Three."], "ranking": [[1], [0, 2]]}
    (asked.folder / "ranked.jsonl").write_text(lines([ranked, {**ranked, "prompt": "Again"}] * 3))
    align(asked, f"data: ranked.jsonl, objective: {objective}")
    asked.run()
    facts = asked.facts("align")["judgements"][objective]
    assert (facts["pairs"], facts["ties"], facts["longer"]["rate"]) == (12, 6, 1.0)
    assert facts["first"]["rate"] == 0.5
    assert math.isfinite(metrics(asked)[-1]["loss"])


def test_ratings_of_one_prompt_become_pairs(asked):
    given = [{"prompt": "Say it", "completion": f"{n}.", "rating": n} for n in (1, 5, 5)]
    (asked.folder / "rated.jsonl").write_text(lines(given))
    align(asked, "data: rated.jsonl")
    asked.run()
    facts = asked.facts("align")["judgements"]["dpo"]
    assert (facts["prompts"], facts["pairs"], facts["ties"]) == (1, 2, 1)


def test_single_answers_are_no_pairs(asked):
    align(asked, "data: thumbs.jsonl")
    with pytest.raises(DataProblem, match="no two to one are worth different"):
        asked.run()


def test_kto_starts_at_a_half_and_counts_the_rarer_kind_more(asked):
    align(asked, "data: thumbs.jsonl, objective: kto, batch_size: 12, pack: false".replace("batch_size: 12, ", ""))
    asked.run()
    first = next(line for line in metrics(asked) if "gauge/kto/z0" in line)
    assert first["gauge/kto/z0"] == pytest.approx(0, abs=1e-4)
    assert any("3 answers were liked and 9 were not; they count 3 and 1" in line for line in asked.said)
    assert any("a liked one is longer than another" in line for line in asked.said)


def test_annotators_may_count_by_their_reliability(asked):
    """Two agree always; the third says the opposite of what is right half of the time."""
    given = [
        {
            "prompt": f"Say {n}",
            "completion": "Yes.",
            "label": (n % 2 == 0) ^ (who == "eve" and n % 4 < 2),
            "annotator": who,
        }
        for n in range(24)
        for who in ("ann", "bob", "eve")
    ]
    (asked.folder / "crowd.jsonl").write_text(lines(given))
    align(asked, "data: crowd.jsonl, objective: kto, annotators: dawid_skene")
    asked.run()
    (line,) = [line for line in asked.said if "annotators are right" in line]
    assert "3 annotators" in line
    assert float(line.split()[-3]) < 0.2 < 1.2 < float(line.split()[-1])  # hers and theirs
    assert asked.facts("align")["judgements"]["kto"]["annotators"] == 3


def test_alone_nobody_can_be_weighed(asked):
    (asked.folder / "alone.jsonl").write_text(thumbs(annotator="ann"))
    align(asked, "data: alone.jsonl, objective: kto, annotators: dawid_skene")
    with pytest.raises(DataProblem, match="no two people judged the same"):
        asked.run()


def test_what_does_not_learn_from_judgements_is_one_line(asked):
    align(asked, "data: docs.jsonl, objective: causal")
    with pytest.raises(UsageProblem, match="causal does not learn from judgements"):
        asked.run()


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [("dpo", "preferences"), ({"kto": {"beta": 0.2}}, "thumbs"), ("pl_dpo", "rankings"), ("my:Own", "preferences")],
)
def test_feedback_means_what_the_objective_learns_from(objective, wanted):
    stage = Align(data=["feedback", "feedback@runs/a.sqlite", "feedback:edits", "a.jsonl"], objective=objective)
    assert stage.data
    wanted = [f"feedback:{wanted}", f"feedback:{wanted}@runs/a.sqlite", "feedback:edits", "a.jsonl"]
    assert [source.path for source in stage.data.sources] == wanted
    assert Align.model_validate({"data": "feedback"}).data == Align(data="feedback:preferences").data
    in_a_recipe = {"align": {"data": ["feedback#50", {"path": "feedback", "weight": 2}], "objective": objective}}
    assert {source.path for source in Align.model_validate(in_a_recipe).data.sources} == {wanted[0]}


def test_learning_rates_are_small(asked):
    assert (Align(data="a").learning_rate, Align(data="a", tune="lora").learning_rate) == (1e-6, 2e-5)


def test_a_model_moves_toward_what_was_chosen(asked):
    """Eight steps at a high rate: pairs in order, and the gauges say so."""
    align(asked, "data: pairs.jsonl, objective: {dpo: {sft: 0.1}}")
    asked.run("align.max_steps=8", "align.learning_rate=1e-2")
    last = metrics(asked)[-1]
    assert last["gauge/dpo/accuracy"] == 1
    assert last["gauge/dpo/margin"] > 1
    assert torch.tensor(last["gauge/dpo/chosen_logprob"]).isfinite()
