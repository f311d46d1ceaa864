"""End to end: a reward that pays for length trips the alarms while a model learns from it, an honest one does not."""

import json

import pytest

from didact.engine.mesh import Mesh, pick_device
from didact.recipe import load
from didact.run.folder import run_folder
from didact.run.life import Life
from tests.battery.base import lines, make_base

RECIPE = """\
name: r
base: ./base
seed: {seed}
stages:
  - reinforce:
      data: asked.jsonl
      context: 128
      batch_size: 4
      micro_batch_size: 4
      max_steps: {steps}
      precision: fp32
      schedule: constant
      learning_rate: 5e-3
      forgetting: false
      objective: {{grpo: {{beta: 0.0}}}}
      rollout: {{group: 4, max_new_tokens: 40, slots: 16}}
      stop_when: {stop}
      rewards:
        - function: tests.run.planted:{reward}
        - function: {{path: "tests.run.planted:{heldout}", weight: 0}}
"""


def run(folder, steps, seed, reward, heldout, stop=()):
    make_base(folder / "base")
    asked = [{"prompt": [{"role": "user", "content": f"Which is {i}?"}]} for i in range(16)]
    (folder / "asked.jsonl").write_text(lines(asked))
    text = RECIPE.format(steps=steps, seed=seed, reward=reward, heldout=heldout, stop=json.dumps(list(stop)))
    (folder / "recipe.yaml").write_text(text)
    loaded = load(folder / "recipe.yaml", [])
    life = Life(
        loaded.recipe, run_folder(folder / "runs", "r"), Mesh(pick_device("cpu")), lambda line: None, folder / "c"
    )
    return life.run()[0].artifact


def test_a_rule_ends_reinforcement_and_the_model_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact = run(tmp_path, 6, 0, "long", "liked", ["length > 1 for 2 steps"])
    assert artifact.facts["stopped"] == "length > 1 for 2 steps at step 2"
    assert artifact.facts["steps"] == 2
    assert (artifact.model / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_planted_reward_trips_the_alarms_and_an_honest_one_does_not(tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted").mkdir()
    (tmp_path / "honest").mkdir()
    monkeypatch.chdir(tmp_path / "planted")
    said = " ".join(run(tmp_path / "planted", 90, seed, "long", "liked").facts["said"])
    assert "the reward is being gamed" in said or "the reward is paid for it" in said
    monkeypatch.chdir(tmp_path / "honest")
    said = " ".join(run(tmp_path / "honest", 90, seed, "vowels", "first_vowels").facts["said"])
    assert "gamed" not in said
    assert "paid for it" not in said
