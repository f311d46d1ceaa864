"""What runs again and what is known to be finished; what a run leaves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.engine.metrics import read
from didact.errors import UsageProblem
from didact.recipe import load
from didact.rollout.diffusion import Unmasker
from didact.rollout.settings import Sampling
from didact.run.chat import Chat
from didact.run.command import run_recipe
from didact.run.named import open_model
from tests.battery.base import chats, documents, make_base

PRETRAIN = "{pretrain: {data: docs.jsonl, context: 32, batch_size: 2, max_steps: 2, learning_rate: 1e-2}}"
FINETUNE = "{finetune: {data: chats.jsonl, context: 64, batch_size: 2, max_steps: 1}}"
EVALUATE = "{evaluate: {data: {d: held.jsonl}, context: 32, samples: [Hi], max_new_tokens: 2}}"
SCRATCH = "{architecture: llama, size: 60k}"
TOKENIZER = "{tokenizer: {data: docs.jsonl, vocab_size: 300}}"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("life") / "base")


class World:
    """A folder with a base, data and one recipe; ``run`` says which stages ran and which were skipped."""

    def __init__(self, folder: Path):
        self.folder, self.said = folder, []

    def recipe(self, *stages: str, base: str = "./base", more: str = "") -> None:
        (self.folder / "recipe.yaml").write_text(f"name: r\nbase: {base}\n{more}stages: [{', '.join(stages)}]\n")

    def run(self, *overrides: str) -> list[str]:
        """The names of the stages that were skipped."""
        self.said = []
        self.breaches = run_recipe(Path("recipe.yaml"), overrides, Path("runs"), self.said.append)
        return [line.split(":")[0] for line in self.said if line.endswith("finished before, skipped")]

    def stages(self, kind: str = "") -> list[Path]:
        return sorted((self.folder / "runs/r/stages").glob(f"*-{kind}*"))

    @property
    def model(self) -> Path:
        return self.folder / "runs/r" / (self.folder / "runs/r/model.path").read_text().strip()

    def facts(self, kind: str) -> dict:
        (folder,) = self.stages(kind)
        return json.loads((folder / "done.json").read_text())["facts"]


@pytest.fixture
def world(tmp_path, base, monkeypatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "docs.jsonl").write_text(documents())
    (tmp_path / "held.jsonl").write_text(documents(4))
    (tmp_path / "chats.jsonl").write_text(chats())
    world = World(tmp_path)
    world.recipe(PRETRAIN, FINETUNE, EVALUATE)
    return world


ALL = ["pretrain", "finetune", "evaluate"]


def test_a_second_run_skips_all(world):
    assert world.run() == []
    first = {path: path.stat().st_mtime_ns for path in (world.folder / "runs/r/stages").rglob("*")}
    assert world.run() == ALL
    assert {path: path.stat().st_mtime_ns for path in (world.folder / "runs/r/stages").rglob("*")} == first


@pytest.mark.parametrize(
    ("override", "skipped"),
    [
        ("pretrain.learning_rate=2e-2", []),
        ("finetune.max_steps=2", ["pretrain"]),
        ("evaluate.max_new_tokens=3", ["pretrain", "finetune"]),
        ("seed=1", []),
        ("finetune.seed=1", ["pretrain"]),
        ("pretrain.log_every=7", ALL),
        ("pretrain.save_every=1", ALL),
        ("pretrain.micro_batch_size=2", ALL),
    ],
)
def test_a_changed_line_reruns_what_follows_and_no_more(world, override, skipped):
    world.run()
    assert world.run(override) == skipped


def test_going_back_to_an_earlier_line_runs_nothing(world):
    world.recipe(PRETRAIN, FINETUNE)
    world.run()
    kept = world.model
    world.run("finetune.max_steps=2")
    assert world.model != kept
    assert world.run() == ["pretrain", "finetune"]
    assert world.model == kept


def test_a_renamed_stage_is_the_same_stage(world):
    world.recipe(PRETRAIN, FINETUNE)
    world.run()
    world.recipe(PRETRAIN.replace("{data", "{name: reads, data"), FINETUNE)
    assert world.run() == ["reads", "finetune"]


def test_changed_content_reruns_its_readers(world):
    world.run()
    (world.folder / "chats.jsonl").write_text(chats(9))
    assert world.run() == ["pretrain"]
    (world.folder / "held.jsonl").write_text(documents(5))
    assert world.run() == ["pretrain", "finetune"]


def test_another_base_reruns_all(world):
    world.run()
    config = world.folder / "base/config.json"
    config.write_text(config.read_text() + "\n")
    assert world.run() == []


def test_content_that_is_only_touched_reruns_nothing(world):
    world.run()
    path = world.folder / "chats.jsonl"
    path.write_text(path.read_text())
    assert world.run() == ALL


def test_a_stage_without_its_record_runs_again(world):
    world.run()
    (folder,) = world.stages("finetune")
    (folder / "done.json").unlink()
    assert world.run() == ["pretrain", "evaluate"]  # the same specification on the same model: what follows still holds
    assert (folder / "done.json").exists()


def test_a_stage_that_was_killed_runs_again(world, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("didact.run.learn.save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    (folder,) = world.stages("pretrain")
    assert not (folder / "done.json").exists()
    assert world.run() == []
    assert [line["step"] for line in read(folder / "metrics.jsonl") if "loss" in line] == [1, 2]


def test_held_out_loss_is_recorded_before_and_after_once(world, monkeypatch):
    world.recipe(PRETRAIN.replace("docs.jsonl,", "docs.jsonl, heldout: held.jsonl,"))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("didact.run.learn.save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    world.run()
    (folder,) = world.stages("pretrain")
    curve = [(line["step"], line["held_out"]) for line in read(folder / "metrics.jsonl") if "held_out" in line]
    assert [step for step, _ in curve] == [0, 2]
    facts = world.facts("pretrain")["heldout"]
    nats = [facts[when] * facts["bytes"] / facts["tokens"] for when in ("before", "after")]  # over ln 2
    assert [loss for _, loss in curve] == pytest.approx([value * 0.6931471805599453 for value in nats])
    assert curve[1][1] < curve[0][1]


def test_an_override_is_part_of_the_recipe_that_is_kept(world):
    world.recipe(PRETRAIN)
    world.run("pretrain.max_steps=1")
    assert load(world.folder / "runs/r/recipe.yaml").recipe.stages[0].max_steps == 1
    assert world.facts("pretrain")["steps"] == 1


def test_a_gate_stays_shut_when_nothing_is_left_to_run(world):
    world.recipe(PRETRAIN, EVALUATE.replace("samples:", "gate: {d: 0.01}, samples:"))
    world.run()
    (breach,) = world.breaches
    assert "the gate allows 0.01" in breach
    assert world.run() == ["pretrain", "evaluate"]
    assert world.breaches == [breach]


def test_two_stages_of_one_kind(world):
    world.recipe(FINETUNE, FINETUNE)
    world.run()
    assert len(world.stages("finetune")) == 2
    assert world.run() == ["finetune", "finetune-2"]
    assert world.run("finetune-2.max_steps=2") == ["finetune"]


def test_a_lora_is_merged_and_measured(world):
    world.recipe(PRETRAIN.replace("{data", "{tune: {lora: {rank: 2}}, data"), EVALUATE)
    world.run()
    facts = world.facts("pretrain")
    assert 0 < facts["trainable"] < facts["parameters"]
    scores = world.facts("evaluate")["evaluations"]["d"]
    assert scores["after"] < scores["before"]
    assert not (world.model / "adapter_config.json").exists()


def test_new_tokens_are_in_the_data_the_model_and_the_tokenizer(world):
    (world.folder / "docs.jsonl").write_text('{"text": "The <new> thing."}\n' * 20)
    world.recipe(PRETRAIN.replace("{data", "{tune: {tokens: ['<new>']}, data"), FINETUNE, EVALUATE)
    world.run()
    (folder,) = world.stages("pretrain")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    (new,) = tokenizer("<new>", add_special_tokens=False)["input_ids"]
    assert new == len(AutoTokenizer.from_pretrained("base"))
    before = AutoModelForCausalLM.from_pretrained("base").get_input_embeddings().weight
    after = AutoModelForCausalLM.from_pretrained(folder / "model").get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before.to(after.dtype))
    plain = len(AutoTokenizer.from_pretrained("base")("The <new> thing.", add_special_tokens=False)["input_ids"])
    assert world.facts("pretrain")["counts"]["tokens"] < 20 * (plain + 1)  # read as one token, not as its letters
    assert set(world.facts("evaluate")["evaluations"]["d"]) >= {"before", "after"}  # the base reads by its own tokens


def test_from_scratch_with_its_own_tokenizer(world):
    world.recipe(TOKENIZER, PRETRAIN, EVALUATE, base=SCRATCH)
    world.run()
    assert world.run() == ["tokenizer", "pretrain", "evaluate"]
    assert world.facts("evaluate")["evaluations"]["d"].keys() == {"after", "tokens", "bytes"}
    assert world.facts("evaluate")["samples"][0]["before"] is None
    assert world.run("tokenizer.vocab_size=280") == []


def test_what_cannot_follow_is_said_before_anything_runs(world):
    world.recipe(PRETRAIN, TOKENIZER)
    with pytest.raises(UsageProblem, match="has a tokenizer already"):
        world.run()
    assert world.stages() == []


@pytest.mark.parametrize("start", ["./base", SCRATCH])
def test_what_is_left_opens_anywhere_and_knows_its_recipe(world, start):
    world.recipe(*([TOKENIZER] if start == SCRATCH else []), PRETRAIN, FINETUNE.replace("64", "32"), base=start)
    (world.folder / "chats.jsonl").write_text(chats().replace("Which is", "?"))
    world.run()
    model, info = AutoModelForCausalLM.from_pretrained(world.model, output_loading_info=True)
    assert not any(info.values())
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert ids.endswith("assistant\n")
    assert tokenizer.eos_token_id in torch.tensor(model.generation_config.eos_token_id)
    assert load(world.model / "recipe.yaml").recipe == load("recipe.yaml").recipe


def test_a_lent_template_travels_with_the_model(world):
    (world.folder / "base/chat_template.jinja").unlink()
    config = world.folder / "base/tokenizer_config.json"
    fields = json.loads(config.read_text())
    del fields["chat_template"]
    config.write_text(json.dumps(fields))
    assert AutoTokenizer.from_pretrained("base").chat_template is None
    world.recipe(FINETUNE)
    world.run()
    assert "<|im_start|>" in AutoTokenizer.from_pretrained(world.model).chat_template


def test_a_run_can_be_the_base_of_another(world):
    world.recipe(PRETRAIN)
    world.run()
    (world.folder / "recipe.yaml").write_text(f"name: next\nbase: runs/r\nstages: [{FINETUNE}]\n")
    assert world.run() == []
    assert world.run() == ["finetune"]


def test_a_checkpoint_says_how_its_prompts_are_read(world):
    world.run("finetune.objective=prefix")
    folder = world.stages("finetune")[0] / "model"
    assert json.loads((folder / "config.json").read_text())["didact"] == {"bidirectional_prompt": True}
    assert open_model(str(folder), "cpu", print).model.bidirectional_prompt
    assert "didact" not in json.loads((world.stages("pretrain")[0] / "model" / "config.json").read_text())


def test_a_causal_base_becomes_a_diffusion_model(world):
    """Its mask token and how it is read travel with it; evaluation then writes by unmasking and bounds the bits."""
    shift = "objective: {diffusion: {shift: true, anneal: 0.5}}"
    world.recipe(PRETRAIN.replace("{data", f"{{{shift}, heldout: held.jsonl, data"), EVALUATE)
    world.run()
    served = json.loads((world.model / "config.json").read_text())["didact"]["text_diffusion"]
    assert served == {"mask": AutoTokenizer.from_pretrained(world.model).mask_token_id, "shift": True, "block": None}
    assert any("upper bound" in line for line in world.said)
    facts = world.facts("evaluate")
    assert facts["evaluations"]["d"]["after"] > 0
    assert facts["samples"][0]["after"] is not None
    assert isinstance(Chat(open_model(str(world.model), "cpu", print), None, Sampling(), print).sampler, Unmasker)
