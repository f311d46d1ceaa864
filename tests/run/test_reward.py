"""The stage reward: what it leaves is a classifier that scores alike everywhere, and knows how good it is."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from didact import cli
from didact.data.answers import Judged
from didact.data.aside import judged, prompt_ids, set_aside
from didact.data.corpus import in_memory
from didact.data.example import Answers
from didact.engine.mesh import Mesh
from didact.errors import GateFailed
from didact.model.classifier import open_classifiers
from didact.recipe.rewarding import RewardModel
from didact.rollout.reward import trust
from didact.rollout.reward.base import Answered, scores
from didact.rollout.reward.model import Model, worth
from didact.run.ground import Ground
from didact.run.reward import _apart, normalised
from didact.run.rewards import Shelf
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.battery.base import make_base

PEOPLE = ("ann", "bob", "cyd", "dan", "eve", "fay")


def write(path: Path, count: int, taste: bool) -> None:
    """Rankings of three sentences each by people who like red, or by nobody who likes anything."""
    rng, lines = random.Random(0), []
    for number in range(count):
        said = [f"The {rng.choice(('red', 'blue'))} {rng.choice('abc')} is number {rng.randrange(6)}." for _ in "abc"]
        liked = [("red" in text) if taste else rng.random() < 0.5 for text in said]
        ranking = [[i for i in range(3) if liked[i] == how] for how in (True, False)]
        record = {"prompt": f"Which is number {number}?", "completions": said, "ranking": [g for g in ranking if g]}
        lines.append(record | {"annotator": PEOPLE[number % 6]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A life of two reward models, one of which has something to learn."""
    here = tmp_path_factory.mktemp("reward")
    base = make_base(here / "base")
    write(here / "red.jsonl", 120, True)
    write(here / "none.jsonl", 60, False)
    how = "context: 128, batch_size: 4, learning_rate: 5e-3, compile: 'off', precision: fp32"
    two = "ensemble: 2, tune: lora"
    (here / "recipe.yaml").write_text(
        f"name: r\nbase: {base}\ndevice: cpu\nstages:\n"
        f"  - reward: {{data: {here}/red.jsonl, people: 0.3, holdout: 0.2, {two}, epochs: 6, {how}}}\n"
        f"  - reward: {{name: chance, data: [{{path: {here}/none.jsonl, weight: 2}}], holdout: 0.5, max_steps: 2,"
        f" {how}}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("DIDACT_CACHE", str(here / "cache"))
        patch.setattr("sys.argv", ["didact", "run", "recipe.yaml"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return here


def folder(run: Path, name: str) -> Path:
    return next((run / "runs" / "r" / "stages").glob(f"*-{name}-*")) / "model"


def ground(run: Path) -> Ground:
    outputs = {f"{name}/model": folder(run, name) for name in ("reward", "chance")}
    return Ground(None, None, None, None, outputs, run / "cache", Mesh(torch.device("cpu")), lambda line: None)


def done(*answers: str) -> list[Answered]:
    return [Answered(({"role": "user", "content": "?"},), text, {"prompt": "Which is number 7?"}) for text in answers]


SAID = ("The red a is number 3.", "The blue b is number 3.", "The red c is number 1.", "The blue a is number 5.")


def test_it_knows_what_it_learned_and_how_good_it_is(run):
    facts = json.loads((folder(run, "reward") / "config.json").read_text())["didact"]["reward"]
    for name in ("prompts", "people"):
        assert facts[name]["accuracy"] > 0.9
        assert facts[name]["low"] > 0.5
        assert facts[name]["calibration_error"] < 0.2
    reward = Model(path="reward/model").open(Shelf(ground(run)))
    red, blue, also, other = scores(reward, done(*SAID))
    assert min(red, also) > max(blue, other) + 0.5
    report = (run / "runs" / "r" / "report.html").read_text()
    assert "right on held-out people" in report


def test_transformers_gives_the_same_scores(run):
    where = folder(run, "reward")
    one, _ = open_classifiers(where, torch.device("cpu"), torch.float32)
    ours = worth(one, done(*SAID))
    tokenizer = AutoTokenizer.from_pretrained(where)
    net = AutoModelForSequenceClassification.from_pretrained(where)
    texts = [one.renderer.answers("Which is number 7?", (text,)).tokens for text in SAID]
    padded = tokenizer.pad({"input_ids": texts}, return_tensors="pt")
    with torch.no_grad():
        theirs = net(**padded).logits[:, 0]
    assert torch.allclose(ours, theirs, atol=1e-5)
    alone = torch.cat([worth(one, done(text)) for text in SAID])
    assert torch.allclose(ours, alone, atol=1e-5)


def test_an_ensemble_is_the_mean_less_its_doubt_or_the_least(run):
    shelf = Shelf(ground(run))
    members = shelf.classifiers("reward/model")
    assert len(members) == 2
    each = torch.stack([worth(one, done(*SAID)) for one in members])
    assert not torch.allclose(each[0], each[1], atol=1e-3)
    assert len(list(folder(run, "reward").parent.rglob("model*.safetensors"))) == 1  # whose base is the first
    assert members[1].facts["prompts"]["accuracy"] > 0.9
    for fields, wanted in (
        ({}, each.mean(0)),
        ({"of": "min"}, each.amin(0)),
        ({"caution": 2.0}, each.mean(0) - (each[0] - each[1]).abs()),
    ):
        found = scores(Model(path="reward/model", **fields).open(shelf), done(*SAID))
        assert found == pytest.approx(wanted.tolist(), abs=1e-5)


def test_one_no_better_than_chance_is_refused_unless_forced(run):
    with pytest.raises(GateFailed, match=r"chance/model: this reward model is no better than chance \(right on"):
        Model(path="chance/model").open(Shelf(ground(run)))
    assert Model(path="chance/model").open(Shelf(ground(run), force=True))(done("a"))
    unmeasured = {"scale": 1.0}
    with pytest.raises(GateFailed, match="measured on nothing"):
        trust.check(unmeasured, "x")
    with pytest.raises(GateFailed, match="no better than chance"):
        trust.check({"scale": 1.0, "people": {"accuracy": 0.6, "low": 0.4, "high": 0.8}}, "x")
    trust.check({"scale": 1.0, "people": {"accuracy": 0.6, "low": 0.55, "high": 0.65}}, "x")
    trust.check({}, "a model from elsewhere says nothing of itself")


def test_ties_alone_are_nothing_to_learn_from():
    def said(*score: float) -> Judged:
        return Judged(np.zeros(4), np.asarray(score), np.zeros(4), np.asarray([0, 2, 4]))

    assert not _apart(said(0, 0, 1, 1))
    assert not _apart(said(0, np.nan, 1, np.nan))
    assert _apart(said(0, 0, 1, 0))


def test_rewards_of_the_reference_have_mean_zero_and_deviation_one():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(500, 24, generator=generator) @ torch.randn(24, 24, generator=generator) + 3
    weight = torch.randn(24, generator=generator)
    found, scale = normalised(weight, hidden)
    rewards, before = hidden @ found, hidden @ weight
    assert rewards.mean().abs() < 1e-4
    assert rewards.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert torch.corrcoef(torch.stack([rewards, before]))[0, 1] > 0.9
    assert scale > 0


def test_what_is_set_aside_is_never_learned_from():
    renderer = Renderer(train(["Which? One two three four five six seven eight nine ten."] * 3, 300))
    examples = [
        Answers(f"{n}", f"Which {n % 40}?", ("one", "two"), (1.0, 0.0), PEOPLE[n % 6] if n % 7 else "")
        for n in range(240)
    ]
    corpus = in_memory(examples, renderer)
    aside = set_aside([corpus], [], 0.25, 0.4, seed=1)
    people = [{int(x) for c in part for x in judged(c).who} for part in (aside.learned, aside.prompts, aside.people)]
    asked = [{x for c in part for x in prompt_ids(c)} for part in (aside.learned, aside.prompts)]
    assert not asked[0] & asked[1]
    assert not people[0] & people[2]
    assert people[1] <= people[0]
    assert 0 in people[0]
    assert 0 not in people[2]
    sizes = [sum(map(len, part)) for part in (aside.learned, aside.prompts, aside.people)]
    assert sum(sizes) == 240
    assert min(sizes) > 20
    assert [len(c) for c in set_aside([corpus], [], 0.25, 0.4, seed=1).learned] == [len(c) for c in aside.learned]
    strangers = in_memory([Answers("x", "New?", ("one", "two"), (1.0, 0.0), who) for who in ("ann", "zoe")], renderer)
    given = set_aside([corpus], [strangers], 0.25, 0.0, seed=1)
    assert [sum(map(len, part)) for part in (given.learned, given.prompts, given.people)] == [240, 1, 1]


def test_accuracy_and_calibration_by_hand():
    pairs = trust.judgements([7, 7, 7, 9, 9], [0, 0, 0, 1, 1], [3, 2, 2, 0, 1], [2.0, 1.0, 3.0, 0.0, 0.0])
    assert sorted((one.prompt, one.gap) for one in pairs) == [(7, -1.0), (7, 1.0), (9, 0.0)]
    facts = trust.facts(pairs, scale=1.0)
    assert facts["accuracy"] == 0.5  # half of the one prompt's pairs, and a tie
    assert (facts["pairs"], facts["prompts"]) == (3, 2)
    sure = torch.tensor(1.0).sigmoid().item()
    assert facts["calibration_error"] == pytest.approx(2 / 3 * abs(sure - 0.5))


@pytest.mark.parametrize("more", [{}, {"tune": "all"}, {"tune": {"lora": {}, "tokens": ["<a>"]}}])
def test_an_ensemble_of_whole_models_is_refused(more):
    with pytest.raises(ValidationError, match="are LoRAs on one base; say tune: lora"):
        RewardModel.model_validate({"data": "a.jsonl", "ensemble": 2, **more})
    assert RewardModel.model_validate({"data": "a.jsonl", "ensemble": 2, "tune": "lora"}).ensemble == 2
