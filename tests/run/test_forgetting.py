"""What a stage costs of what the model knew."""

import json
from copy import deepcopy

import pytest
import torch

from didact.data.stream import TokenStream
from didact.engine.evaluate import Score, evaluate
from didact.engine.mesh import Mesh
from didact.engine.optimizer import Optimizer
from didact.engine.settings import Training
from didact.engine.step import Task, take_step
from didact.objective.tokens import Causal
from didact.rng import Rng
from didact.run import forgetting
from didact.text.render import Renderer
from tests.model.folders import tiny_tokenizer
from tests.run.test_life import FINETUNE, PRETRAIN, base, world  # noqa: F401
from tests.toy import toy_model, toy_parts

MESH = Mesh(torch.device("cpu"))


def test_general_text_is_small_and_the_same_every_time():
    found = forgetting.general_text(Renderer(tiny_tokenizer()))
    assert forgetting.TOKENS // 2 < len(found.token) <= forgetting.TOKENS
    again = forgetting.general_text(Renderer(tiny_tokenizer()))
    assert (found.token == again.token).all()
    assert found.text_bytes.sum() > 2000


def test_a_score_is_taken_once(tmp_path):
    taken = []

    def score():
        taken.append(1)
        return Score(3.25, 7, 9)

    assert forgetting.remembered(tmp_path, ["a", "b"], score) == Score(3.25, 7, 9)
    assert forgetting.remembered(tmp_path, ["a", "b"], score) == Score(3.25, 7, 9)
    assert len(taken) == 1
    forgetting.remembered(tmp_path, ["a", "c"], score)
    assert len(taken) == 2


def test_a_fine_tuning_stage_says_what_was_forgotten(world, monkeypatch):  # noqa: F811
    world.recipe(PRETRAIN, FINETUNE)
    world.run()
    assert "general" not in world.facts("pretrain") or world.facts("pretrain")["general"] is None
    found = world.facts("finetune")["general"]
    (line,) = [line for line in world.said if "general text" in line]
    assert line.startswith(f"finetune: general text {found['before']:.3f} -> {found['after']:.3f} bits per byte")
    assert 0 < found["tokens"] <= forgetting.TOKENS
    assert "finetune: general text" in (world.folder / "runs/r/report.html").read_text()
    monkeypatch.setattr("didact.run.learn.forgetting.remembered", lambda *given: pytest.fail("asked for a score"))
    world.run("finetune.forgetting=false")
    assert not any("general text" in line for line in world.said)


def test_the_text_and_the_model_before_are_the_stages_own(world):  # noqa: F811
    """From the same parent the score before is the same and taken once; of another text it is another."""
    world.recipe(FINETUNE)
    world.run()
    first = world.facts("finetune")["general"]
    (kept,) = (world.folder / "cache/forgetting").iterdir()
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "nats": 1.0}))
    world.recipe(FINETUNE.replace("max_steps: 1", "max_steps: 2"))
    world.run()
    second = json.loads(
        max(world.stages("finetune"), key=lambda p: p.stat().st_mtime).joinpath("done.json").read_text()
    )
    assert second["facts"]["general"]["before"] == pytest.approx(1 / (first["bytes"] * 0.6931471805599453))
    world.recipe(FINETUNE.replace("max_steps: 1", "max_steps: 1, general: held.jsonl"))
    world.run()
    assert len(list((world.folder / "cache/forgetting").iterdir())) == 2


def task(seed: int, weight: float = 1.0) -> Task:
    """Eight documents to learn."""
    stream = TokenStream(toy_parts(32, documents=8, seed=seed, longest=10), 32, 3, 0)
    return Task(f"{seed}", Causal(), stream.start(0), weight)


def learned(model, *tasks: Task):
    """``model`` after twenty steps of AdamW."""
    optimizer = Optimizer(model, Training(learning_rate=3e-3))
    for step in range(20):
        take_step(model, tasks, MESH, Rng(0, step), 8)
        optimizer.clip(1.0)
        optimizer.step(1.0)
        optimizer.zero()
    return model


def loss(model, seed: int) -> float:
    return evaluate(model, Causal(), toy_parts(32, documents=8, seed=seed, longest=10), 32, MESH).loss


def test_replay_keeps_what_was_known():
    """General text as a second task: its loss rises less than without, while the new text is learned as well."""
    known = learned(toy_model(), task(1))
    alone, replayed = learned(deepcopy(known), task(2)), learned(deepcopy(known), task(2), task(1, 0.5))
    assert loss(replayed, 1) < 0.5 * loss(alone, 1)
    assert loss(known, 1) < loss(alone, 1)
    assert loss(replayed, 2) < 0.5 * loss(known, 2)
