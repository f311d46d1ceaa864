"""The doctor finds nothing wrong with what is right, and each planted fault."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from didact.audit import doctor, machine
from didact.audit.toy import WINDOW, toy_network
from didact.audit.trial import trials
from didact.errors import DataProblem, GateFailed, UsageProblem
from didact.model.save import save_model
from didact.model.settings import Tune
from didact.recipe import load
from tests.battery.base import lines
from tests.model.folders import ARCHITECTURES, tiny, tiny_tokenizer

DOCUMENTS = "".join(f'{{"text": "Document {i} says: {"lorem ipsum " * (i % 4 + 1)}end."}}\n' for i in range(30))
CHATS = "".join(
    f'{{"messages": [{{"role": "user", "content": "{i}?"}}, {{"role": "assistant", "content": "Yes, {i * i}."}}]}}\n'
    for i in range(12)
)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "docs.jsonl").write_text(DOCUMENTS)
    (tmp_path / "chats.jsonl").write_text(CHATS)
    return tmp_path


def base(folder: Path, architecture: str = "llama", **fields) -> Path:
    save_model(tiny(architecture, **fields), tiny_tokenizer(), folder / "base")
    return folder / "base"


def write(folder: Path, *stages: str, base: str = "./base") -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"name: r\nbase: {base}\nstages:\n" + "".join(f"  - {stage}\n" for stage in stages))
    return recipe


def measure(recipe: Path, *overrides: str) -> dict[str, bool]:
    found = list(trials(recipe, overrides, Path("runs"), lambda line: None))
    return {f"{one.stage} {one.law}": one.ok for one in found}


def test_all_laws_hold_on_documents_and_chats(world, capsys):
    base(world)
    recipe = write(
        world,
        "pretrain: {data: docs.jsonl, optimizer: muon}",
        "finetune: {data: chats.jsonl, tune: {lora: {rank: 2, dropout: 0.1}}}",
    )
    doctor.examine(recipe, [], Path("runs"), lambda line: None)
    shown = capsys.readouterr().out
    assert shown.count(" ok ") == 1 + 6 + 7
    assert "failed" not in shown
    for name in ("python", "torch ", "peak float32", "extra gguf", "disk of cache", "C++ compiler"):
        assert name in shown


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "llama"])
def test_all_laws_hold_on_other_architectures(world, architecture):
    base(world, architecture)
    assert all(measure(write(world, "pretrain: {data: docs.jsonl}")).values())


@pytest.mark.parametrize("tune", ["head", "{last: 2}", "{last: 1}", "{tokens: ['<one>', '<two>']}"])
def test_all_laws_hold_however_it_is_tuned(world, tune):
    base(world, num_hidden_layers=3)
    assert all(measure(write(world, f"finetune: {{data: chats.jsonl, tune: {tune}}}")).values())


@pytest.mark.parametrize("objective", ["grpo", "ppo"])
def test_all_laws_hold_where_a_model_learns_from_its_own_answers(world, objective):
    base(world)
    stage = f"{{data: chats.jsonl, objective: {objective}, rewards: [{{regex: e}}], tune: lora, precision: fp32}}"
    found = measure(write(world, f"reinforce: {stage}"))
    assert all(found.values()), found
    assert "reinforce 5 sampled as trained" in found


@pytest.mark.parametrize(
    "stage",
    [
        "align: {data: ranked.jsonl, tune: {lora: {rank: 2}}}",
        "align: {data: thumbs.jsonl, objective: kto, annotators: dawid_skene}",
        "reward: {data: ranked.jsonl, objective: {reward: {debias: [person, length, place]}}}",
        "reward: {data: talked.jsonl}",
        "reward: {data: ranked.jsonl, ensemble: 2, tune: {lora: {rank: 2}}}",
    ],
)
def test_all_laws_hold_where_a_model_learns_from_judgements(world, stage):
    base(world)
    said = [{"completions": [f"{i}", "No.", "Yes."], "ranking": [[0], [1, 2]], "prompt": f"{i}?"} for i in range(9)]
    (world / "ranked.jsonl").write_text(lines([one | {"annotator": who} for one in said for who in "ab"]))
    (world / "thumbs.jsonl").write_text(
        lines([{"prompt": f"{i}?", "completion": "No.", "label": i < 3} for i in range(9)])
    )
    talked = [{"role": "user", "content": "Which?"}], [{"role": "assistant", "content": "It."}]
    (world / "talked.jsonl").write_text(lines([{"prompt": talked[0], "chosen": talked[1], "rejected": "No."}] * 6))
    found = measure(write(world, stage))
    assert all(found.values()), found
    assert len(found) == 1 + 6


def test_a_reward_model_that_could_not_be_saved_is_found(world, monkeypatch):
    def wrong(*given, **named):
        raise UsageProblem("it cannot be left")

    monkeypatch.setattr("didact.audit.scored.save_classifier", wrong)
    base(world)
    (world / "pairs.jsonl").write_text('{"prompt": "Say", "chosen": "Yes.", "rejected": "No."}\n' * 6)
    found = measure(write(world, "reward: {data: pairs.jsonl}"))
    assert not found.pop("reward 6 saved as trained")
    assert all(found.values())


def test_a_model_from_scratch_and_a_mixture(world):
    tasks = "[{data: docs.jsonl, objective: causal}, {data: chats.jsonl, objective: sft, weight: 0.5}]"
    recipe = write(
        world,
        "tokenizer: {data: docs.jsonl, vocab_size: 300}",
        f"pretrain: {{tasks: {tasks}}}",
        base="{architecture: qwen3, size: 1M, config: {hidden_size: 128}}",
    )
    found = measure(recipe)
    assert all(found.values())
    first = "1 any micro-batches"
    assert {f"pretrain/causal {first}", f"pretrain/sft {first}", "pretrain 4 stopped and resumed"} <= found.keys()


@pytest.mark.parametrize(
    ("objective", "law"),
    [
        ("MeanOfPieces", "1 any micro-batches"),
        ("Leaking", "2 packed as unpacked"),
        ("Greedy", "3 weight zero is nothing"),
        ("Lucky", "4 stopped and resumed"),
    ],
)
def test_a_broken_objective_is_found(world, objective, law):
    base(world)
    found = measure(write(world, f"finetune: {{data: chats.jsonl, objective: 'tests.audit.broken:{objective}'}}"))
    assert not found[f"finetune {law}"]
    assert found["finetune 6 saved as trained"]


def test_what_fails_is_a_gate(world, capsys):
    base(world)
    recipe = write(world, "pretrain: {data: docs.jsonl, objective: 'tests.audit.broken:MeanOfPieces'}")
    with pytest.raises(GateFailed, match="1 any micro-batches") as caught:
        doctor.examine(recipe, [], Path("runs"), lambda line: None)
    assert caught.value.code == 7
    assert "failed" in capsys.readouterr().out


def test_a_prefix_model_is_served_as_it_is_trained(world):
    base(world)
    assert all(measure(write(world, "finetune: {data: chats.jsonl, objective: prefix}")).values())


def test_a_template_that_serves_otherwise_is_found(world):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[ assistant ]{% endif %}"
    )
    save_model(tiny(), tokenizer, world / "base")
    found = [
        one
        for one in trials(write(world, "finetune: {data: chats.jsonl}"), [], Path("runs"), lambda line: None)
        if one.law == "5 rendered as served"
    ]
    assert not found[0].ok
    assert found[0].note.startswith("12 of 12 conversations differ: turn 2")


def test_a_mistake_in_the_data_is_one_line(world):
    base(world)
    (world / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "Alone?"}]}\n')
    with pytest.raises(DataProblem, match=r"chats\.jsonl:1"):
        measure(write(world, "finetune: {data: chats.jsonl}"))


def test_the_toy_keeps_what_makes_the_architecture():
    given = tiny("gemma3_text", layer_types=["full_attention", "sliding_attention"], sliding_window=5).config.to_dict()
    net = toy_network("gemma3_text", given, Tune(), tiny_tokenizer(), 64, 0).net
    assert sorted(net.config.layer_types) == ["full_attention", "sliding_attention"]
    assert net.config.sliding_window == WINDOW
    alike = toy_network(
        "llama", {"attention_bias": True, "tie_word_embeddings": False}, Tune(), tiny_tokenizer(), 64, 0
    )
    assert alike.net.get_input_embeddings().weight is not alike.net.get_output_embeddings().weight
    assert any("q_proj.bias" in name for name, _ in alike.net.named_parameters())


# --- the machine -------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="a real torchvision is here")
def test_a_torchvision_for_another_torch_is_found(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    found = machine.torchvision()
    assert "torchvision::nms" in found.value
    assert "pip uninstall torchvision" in found.worry


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="a real torchvision is here")
def test_without_torchvision_nothing_is_wrong():
    assert machine.torchvision().worry == ""


def test_missing_things_have_a_remedy(tmp_path, monkeypatch):
    assert machine.extra("zstd", ("no_such_package",)).value == "not installed: pip install 'didact[zstd]'"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "compile: off" in machine.compiler().worry
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: type("", (), {"free": 5})())
    assert "free some space" in machine.disk("runs", tmp_path / "not" / "there").worry


def test_the_machine_is_examined_without_transformers():
    """With a torchvision for another torch, importing it fails: the doctor must get to say so first."""
    code = "import sys; from didact.audit.doctor import examine; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_recipe_of_the_quickstart_is_read():
    assert load(Path(__file__).parents[2] / "recipes" / "quickstart.yaml").recipe.name == "quickstart"
