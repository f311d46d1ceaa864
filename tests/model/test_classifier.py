"""Reward models as folders: each member of an ensemble is what was trained, for us and for transformers with PEFT."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, PreTrainedModel

from didact.batch import Batch
from didact.errors import DataProblem, Problem, UsageProblem
from didact.model import lora
from didact.model.classifier import Classifier, check_classifier, open_classifiers, save_classifier, save_member
from didact.model.lora import adapted, add
from didact.model.settings import Lora
from tests.model.folders import ARCHITECTURES, jolt, tiny, tiny_tokenizer

IDS = torch.arange(3, 27).view(2, 12)
CPU = torch.device("cpu")
SCORE = "base_model.model.score.weight"


def member(architecture: str, seed: int, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, torch.Tensor]:
    """A network with a LoRA and a head that differ from seed to seed."""
    net = tiny(architecture, dtype)
    add(net, Lora(rank=3, alpha=5.0), seed)
    jolt(net, 0.05 + 0.05 * seed)
    return net, torch.randn(32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def trained(net: PreTrainedModel, weight: torch.Tensor) -> torch.Tensor:
    return net.base_model(IDS, use_cache=False).last_hidden_state[:, -1].float() @ weight


@torch.no_grad()
def opened(one: Classifier) -> torch.Tensor:
    index = torch.arange(12).expand(2, -1)
    batch = Batch({"token": IDS, "doc": torch.zeros_like(IDS), "position": index, "reach": index})
    return one.model.head("reward", one.model.hidden(batch)[:, -1])[:, 0]


def save(folder: Path, architecture: str = "llama", count: int = 3, dtype: torch.dtype = torch.float32) -> list:
    """An ensemble in ``folder``, and what each of its members says."""
    nets = [member(architecture, seed, dtype) for seed in range(count)]
    kept = {f"member-{n}": folder.parent / f"{folder.name}-{n}" for n in range(2, count + 1)}
    for (net, weight), place in zip(nets[1:], kept.values(), strict=True):
        save_member(net, weight, place, {"of": place.name})
    net, weight = nets[0]
    before = trained(net, weight)
    save_classifier(net, weight, tiny_tokenizer(), [1], folder, {"scale": 1.0}, others=kept)
    assert torch.equal(trained(net, weight), before)
    return [trained(*one) for one in nets]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_member_says_what_it_was_trained_to_say(tmp_path, architecture):
    wanted = save(tmp_path / "model", architecture)
    members = open_classifiers(tmp_path / "model", CPU, torch.float32)
    found = [opened(one) for one in members]
    for ours, before in zip(found, wanted, strict=True):
        assert torch.allclose(ours, before, atol=1e-5)
    assert (found[0] - found[1]).abs().min() > 1e-2
    assert members[0].facts["members"] == {f"member-{n}": {"of": f"model-{n}"} for n in (2, 3)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_and_peft_alone_say_the_same(tmp_path, architecture):
    where = tmp_path / "model"
    wanted = save(where, architecture)
    net = AutoModelForSequenceClassification.from_pretrained(where)
    with torch.no_grad():
        assert torch.allclose(net(IDS).logits[:, 0], wanted[0], atol=1e-5)
        both = peft.PeftModel.from_pretrained(net, where / "member-2", adapter_name="member-2").eval()
        both.load_adapter(where / "member-3", "member-3")  # beside each other on one base, as PEFT switches them
        for number in (2, 3):
            both.set_adapter(f"member-{number}")
            assert torch.allclose(both(IDS).logits[:, 0], wanted[number - 1], atol=1e-5)
        alone = peft.AutoPeftModelForSequenceClassification.from_pretrained(where / "member-3", num_labels=1).eval()
        assert torch.allclose(alone(IDS).logits[:, 0], wanted[2], atol=1e-5)


def test_the_base_is_there_once(tmp_path):
    save(tmp_path / "model")
    first, *others = open_classifiers(tmp_path / "model", CPU, torch.float32)
    place = {weight.data_ptr() for weight in first.model.net.parameters()}
    for other in others:
        own = [weight for weight in other.model.net.parameters() if weight.data_ptr() not in place]
        assert len(own) == 2 * len(adapted(other.model.net))
    whole = (tmp_path / "model" / "model.safetensors").stat().st_size
    beside = [path.stat().st_size for path in (tmp_path / "model").glob("member-*/*.safetensors")]
    assert len(beside) == 2
    assert max(beside) < whole
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1


def test_rounded_weights_are_no_other_members(tmp_path):
    wanted = save(tmp_path / "model", dtype=torch.bfloat16)
    found = [opened(one) for one in open_classifiers(tmp_path / "model", CPU, torch.bfloat16)]
    assert (torch.stack(found) - torch.stack(wanted)).abs().max() < 0.1 * torch.stack(wanted).std()


def test_a_member_that_is_not_what_was_trained_is_not_saved(tmp_path, monkeypatch):
    right = lora.adapt

    def wrong(model, name, rank, scale, dropout=0.0):
        return right(model, name, rank, scale / 2 if rank == 6 else scale, dropout)

    monkeypatch.setattr(lora, "adapt", wrong)
    with pytest.raises(Problem, match="not the trained one"):
        save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("harm", ["head", "left", "pair"])
def test_a_damaged_member_is_one_line(tmp_path, harm):
    save(tmp_path / "model")
    path = tmp_path / "model" / "member-2" / lora.WEIGHTS
    tensors = load_file(path)
    if harm == "head":
        tensors[SCORE] = torch.ones(2, 32)
    else:
        del tensors[SCORE if harm == "left" else next(name for name in tensors if "lora_A" in name)]
    save_file(tensors, path)
    with pytest.raises(DataProblem, match=r"adapter_model.safetensors") as caught:
        open_classifiers(tmp_path / "model", CPU, torch.float32)
    assert "\n" not in str(caught.value)


def test_peft_reads_the_configuration(tmp_path):
    save(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "member-2" / "adapter_config.json").read_text())
    assert (told["task_type"], told["modules_to_save"], told["r"]) == ("SEQ_CLS", ["score"], 6)
    assert told["base_model_name_or_path"] == str(tmp_path / "model")


def test_what_cannot_be_saved_is_said_before_anything_is_trained():
    check_classifier(tiny(), tiny_tokenizer(), [1])
    with pytest.raises(UsageProblem, match="cannot be left as a classifier that reads the last token"):
        check_classifier(BertForMaskedLM(BertConfig(hidden_size=8, num_attention_heads=2)), tiny_tokenizer(), [1])
    with pytest.raises(DataProblem, match="no token that could be padding"):
        check_classifier(tiny(), tiny_tokenizer(), [0, 1, 2])
