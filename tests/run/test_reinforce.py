"""The stage reinforce from a recipe: answers, rewards, gauges, and what is refused."""

import json

import pytest
import torch

from didact.batch import Batch
from didact.engine.mesh import Mesh, pick_device
from didact.errors import UsageProblem
from didact.model.classifier import open_classifiers
from didact.recipe import load
from didact.rollout.reward.base import Answered
from didact.rollout.reward.model import worth
from didact.run.act import critic
from didact.run.folder import run_folder
from didact.run.ground import Ground
from didact.run.life import Life
from didact.text import tokenizer as tokenizers
from tests.battery.base import lines, make_base

STAGE = """
  - reinforce:
      data: sums.jsonl
      context: 64
      batch_size: 2
      micro_batch_size: 2
      max_steps: 2
      precision: fp32
      forgetting: false
      tune: {lora: {rank: 2}}
      learning_rate: 1e-3
      rollout: {group: 2, max_new_tokens: 4}
      rewards:
        - regex: {pattern: e}
        - regex: {name: digits, pattern: '\\d', weight: 0}
"""
MEASURE = """
  - evaluate: {measures: {e: {reward: {data: few.jsonl, samples: 2, max_new_tokens: 4, rewards: [{regex: e}]}}}}
"""

REWARD = """
  - reward: {data: ranks.jsonl, context: 64, batch_size: 2, max_steps: 2, holdout: 0.3, precision: fp32}
"""
CRITIC = STAGE.replace(
    "      rewards:", "      objective: ppo\n      critic: reward/model\n      force: true\n      rewards:"
)
CRITIC = CRITIC.replace("- regex: {pattern: e}", "- model: {path: reward/model, weight: 0.5}")


def run(folder, stages, say=lambda line: None):
    make_base(folder / "base")
    asked = [{"prompt": [{"role": "user", "content": f"Which is {i}?"}], "answer": str(i)} for i in range(4)]
    (folder / "sums.jsonl").write_text(
        lines([*asked, {"prompt": [{"role": "user", "content": "w" * 400}], "answer": ""}])
    )
    (folder / "few.jsonl").write_text(lines(asked))
    said = [{"prompt": f"Which is {i}?", "completions": ["red", "blue"], "ranking": [[0], [1]]} for i in range(9)]
    (folder / "ranks.jsonl").write_text(lines(said))
    (folder / "recipe.yaml").write_text(f"name: r\nbase: ./base\nstages:{stages}")
    loaded = load(folder / "recipe.yaml", [])
    return Life(loaded.recipe, run_folder(folder / "runs", "r"), Mesh(pick_device("cpu")), say, folder / "cache").run()


def test_from_prompts_to_a_model_that_was_rewarded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    stage, measured = run(tmp_path, STAGE + MEASURE, said.append)
    assert any("4 prompts, 2 answers to each; 1 longer than 60 tokens were left out" in line for line in said)
    assert (stage.artifact.model / "model.safetensors").is_file()
    (first, second) = map(json.loads, (stage.folder.path / "metrics.jsonl").read_text().splitlines())
    assert first["gauge/grpo/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["gauge/grpo/reward"] == first["gauge/grpo/reward/regex"]
    assert "gauge/grpo/reward/heldout/digits" in second
    told = [json.loads(line) for path in stage.folder.path.rglob("said.jsonl") for line in path.open()]
    assert len(told) == 8
    assert all({"prompt", "answer", "score", "reward/regex", "reward/heldout/digits"} <= one.keys() for one in told)
    assert 0 <= measured.artifact.facts["measures"]["e"]["value"] <= 1


def test_the_critic_begins_as_the_reward_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reward, stage = run(tmp_path, REWARD + CRITIC)
    first = json.loads((stage.folder.path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss/ppo/value", "gauge/ppo/explained_variance"} <= first.keys()
    assert not (stage.artifact.model / "heads.safetensors").exists()
    outputs, cpu = reward.artifact.outputs, torch.device("cpu")
    ground = Ground(None, None, None, None, {"reward/model": outputs["model"]}, tmp_path, Mesh(cpu), lambda line: None)
    one = open_classifiers(outputs["model"], cpu, torch.float32)[0]
    made = critic(stage.stage, ground, one.renderer.tokenizer, torch.float32)
    done = [Answered((), answer, {"prompt": "Which is 3?"}) for answer in ("red", "blue and green")]
    for each, expected in zip(done, worth(one, done), strict=True):
        text = one.renderer.answers("Which is 3?", (each.answer,)).tokens
        index = torch.arange(len(text))[None]
        row = {"token": torch.tensor([text]), "position": index, "doc": torch.zeros_like(index), "reach": index}
        assert made.value(Batch(row))[0, -1].item() == pytest.approx(0.5 * float(expected), abs=1e-5)
    assert {name for name, weight in made.named_parameters() if weight.requires_grad} >= {"heads.value.weight"}
    base = tokenizers.load(make_base(tmp_path / "other"))
    base.add_tokens(["<|another|>"])
    with pytest.raises(UsageProblem, match="reads other tokens"):
        critic(stage.stage, ground, base, torch.float32)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("\n  - finetune: {data: sums.jsonl, objective: grpo}\n", "make this stage a reinforce"),
        (
            STAGE.replace("data: sums.jsonl", "objective: dpo, data: sums.jsonl".replace(", ", "\n      ")),
            "dpo does not learn",
        ),
        (STAGE.replace("group: 2", "group: 1"), "an answer is held against the others to its prompt"),
        (STAGE.replace("{pattern: e}", "{pattern: e, weight: 0}"), "no reward counts here"),
        (STAGE.replace("max_steps: 2", "tokens: 100"), "how many tokens a model will answer with"),
        (STAGE.replace("group: 2,", "group: 2, prompts: 3,"), "cannot be shared by steps of 2"),
        (REWARD + CRITIC.replace("objective: ppo", "objective: grpo"), "grpo has no critic"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, stage, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem) as caught:
        run(tmp_path, stage)
    assert says in str(caught.value)
