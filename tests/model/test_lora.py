import json
import os

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from didact.errors import DataProblem, UsageProblem
from didact.model.load import load
from didact.model.lora import LoraLinear, adapted, add, load_adapter, merge, save_adapter
from didact.model.settings import Lora
from tests.model.folders import ARCHITECTURES, checkpoint, jolt, logits, tiny


def tuned(architecture="llama", lora=None, dtype=torch.float32):
    model = tiny(architecture, dtype)
    names = add(model, lora or Lora(rank=4), seed=1)
    jolt(model)
    return model, names


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_at_first_nothing_changes_and_just_a_and_b_learn(architecture):
    model = tiny(architecture)
    before = logits(model)
    names = add(model, Lora(rank=4))
    assert torch.equal(logits(model), before)
    model(input_ids=torch.arange(8)[None], use_cache=False).logits.square().sum().backward()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"{name}.lora_{side}.weight" for name in names for side in "AB"}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == learning
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_is_unmerged(architecture):
    model, _ = tuned(architecture)
    apart = logits(model)
    assert (apart - logits(tiny(architecture))).abs().max() > 0.01
    merge(model)
    assert not adapted(model)
    assert list(model.state_dict()) == list(tiny(architecture).state_dict())
    assert torch.allclose(logits(model), apart, atol=1e-5)


def test_a_layer_by_hand():
    base = torch.nn.Linear(3, 2)
    layer = LoraLinear(base, rank=1, scale=2.0, dropout=0.0)
    layer.lora_A.weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    layer.lora_B.weight.data = torch.tensor([[1.0], [-1.0]])
    x = torch.tensor([1.0, 0.0, 1.0])
    assert torch.allclose(layer(x), base(x) + 2.0 * torch.tensor([4.0, -4.0]))
    assert torch.allclose(layer.merged(), base.weight + 2.0 * torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", [(), ("mlp.c_fc", "q_proj", "down_proj", "attn.c_proj")])
def test_peft_loads_ours(tmp_path, architecture, targets):
    known = {name for name, _ in tiny(architecture).named_modules()}
    targets = tuple(t for t in targets if any(name.endswith(t) for name in known))
    model, names = tuned(architecture, Lora(rank=3, alpha=5.0, targets=targets))
    save_adapter(model, tmp_path, "base")
    theirs = peft.PeftModel.from_pretrained(tiny(architecture), tmp_path)
    assert torch.allclose(logits(theirs), logits(model), atol=1e-6)
    reached = [name for name, module in theirs.base_model.model.named_modules() if hasattr(module, "lora_A")]
    assert sorted(reached) == sorted(names)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_pefts(tmp_path, architecture, rslora):
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_rslora=rslora, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny(architecture), config)
    jolt(theirs)
    theirs.save_pretrained(tmp_path)
    model = tiny(architecture)
    load_adapter(model, tmp_path)
    assert torch.allclose(logits(model), logits(theirs.eval()), atol=1e-6)


def test_an_adapter_folder_loads_with_its_base(tmp_path):
    base = checkpoint(tmp_path / "base")
    model = load(base, torch.float32, "eager")
    add(model, Lora(rank=4))
    jolt(model)
    save_adapter(model, tmp_path / "adapter", "../base")
    assert torch.equal(logits(load(tmp_path / "adapter", torch.float32, "eager")), logits(model))


def test_the_seed_decides_a():
    first, again, other = tiny(), tiny(), tiny()
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        add(model, Lora(rank=4), seed)
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert first.get_parameter(name).abs().max() <= 32**-0.5


def test_types_and_dropout():
    model, names = tuned(lora=Lora(rank=4, dropout=0.5), dtype=torch.bfloat16)
    layer = model.get_submodule(names[0])
    assert layer.lora_A.weight.dtype == torch.bfloat16
    x = torch.ones(1, 32, dtype=torch.bfloat16)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert len({layer(x).float().sum().item() for _ in range(8)}) > 1


def test_wrong_targets_get_the_nearest_name():
    with pytest.raises(UsageProblem, match=r"'q_prj'.*q_proj"):
        add(tiny(), Lora(targets=("q_prj",)))
    with pytest.raises(UsageProblem, match="output head"):
        add(tiny(), Lora(targets=("lm_head",)))
    model, _ = tuned()
    with pytest.raises(UsageProblem, match="already"):
        add(model, Lora())


def change(**fields):
    def edit(folder):
        raw = json.loads((folder / "adapter_config.json").read_text()) | fields
        (folder / "adapter_config.json").write_text(json.dumps(raw))

    return edit


def rename(old, new):
    def edit(folder):
        path = folder / "adapter_model.safetensors"
        save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)

    return edit


SPOILED = {
    "DoRA": (change(use_dora=True), "use_dora"),
    "another method": (change(peft_type="IA3"), "more than a plain LoRA"),
    "biases": (change(bias="all"), "bias"),
    "saved modules": (change(modules_to_save=["lm_head"]), "modules_to_save"),
    "ranks by pattern": (change(rank_pattern={"q_proj": 2}), "rank_pattern"),
    "PiSSA": (change(init_lora_weights="pissa"), "pissa"),
    "rank a word": (change(r="four"), "numbers"),
    "another rank": (change(r=8), "rank 8"),
    "another base": (rename("q_proj", "query"), "query, no linear layer"),
    "half a pair": (rename("0.self_attn.q_proj.lora_B", "0.odd"), "pairs"),
    "pickled": (lambda f: os.rename(f / "adapter_model.safetensors", f / "adapter_model.bin"), "pickled"),
    "truncated": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x00" * 9), "not JSON|header"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("x"), "not JSON"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_other_adapters_get_one_line(tmp_path, case):
    model, _ = tuned()
    save_adapter(model, tmp_path, "base")
    spoil, says = SPOILED[case]
    spoil(tmp_path)
    with pytest.raises(DataProblem, match=says) as caught:
        load_adapter(tiny(), tmp_path)
    assert "\n" not in str(caught.value)
