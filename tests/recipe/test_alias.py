import pytest

from didact.errors import UsageProblem
from didact.recipe import Finetune, Recipe, alias


def stage_of(reads, text: str):
    return reads(
        "name: x\nbase: y\nstages:\n- finetune:\n    data: a\n" + "".join(f"    {line}\n" for line in text.split("\n"))
    )


CASES = {
    "num_train_epochs: 3": {"epochs": 3},
    "num_train_steps: 5": {"max_steps": 5},
    "cutoff_len: 64": {"context": 64},
    "max_seq_length: 64": {"context": 64},
    "max_length: 64": {"context": 64},
    "sequence_len: 1k": {"context": 1000},
    "per_device_train_batch_size: 8": {"micro_batch_size": 8, "batch_size": 8},
    "per_device_train_batch_size: 8\ngradient_accumulation_steps: 4": {"micro_batch_size": 8, "batch_size": 32},
    "per_device_train_batch_size: 8\nbatch_size: 64": {"micro_batch_size": 8, "batch_size": 64},
    "micro_batch_size: 2\ngradient_accumulation_steps: 4": {"micro_batch_size": 2, "batch_size": 8},
    "gradient_accumulation_steps: 4": {"micro_batch_size": 1, "batch_size": 4},
    "lora_r: 8": {"tune": {"lora": {"rank": 8}}},
    "lora_rank: 8\nlora_alpha: 32\nlora_dropout: 0.1": {"tune": {"lora": {"rank": 8, "alpha": 32, "dropout": 0.1}}},
    "tune: lora\nlora_r: 8": {"tune": {"lora": {"rank": 8}}},
    "tune: {lora: {rank: 4}}\nlora_alpha: 9": {"tune": {"lora": {"rank": 4, "alpha": 9}}},
    "lora_r: 8\nadapter: lora": {"tune": {"lora": {"rank": 8}}},
    "lora_target: q_proj, v_proj": {"tune": {"lora": {"targets": ["q_proj", "v_proj"]}}},
    "lora_target: [q_proj]": {"tune": {"lora": {"targets": ["q_proj"]}}},
    "lora_target: all": {"tune": "lora"},
    "lora: {rank: 3}": {"tune": {"lora": {"rank": 3}}},
    "finetuning_type: full": {"tune": "all"},
    "lr: 1e-4": {"learning_rate": 1e-4},
    "lr_scheduler_type: constant_with_warmup": {"schedule": "constant"},
    "lr_scheduler_type: warmup_stable_decay": {"schedule": "wsd"},
    "optim: adamw_torch": {"optimizer": "adamw"},
    "max_grad_norm: 0.5": {"grad_clip": 0.5},
    "adam_beta1: 0.8": {"betas": [0.8, 0.95]},
    "adam_beta2: 0.99\nadam_beta1: 0.8": {"betas": [0.8, 0.99]},
    "bf16: true": {"precision": "bf16"},
    "bf16: yes\nfp16: no": {"precision": "bf16"},
    "fp16: true": {"precision": "auto"},
    "bf16: auto": {"precision": "auto"},
    "bf16: false": {"precision": "fp32"},
    "packing: false": {"pack": False},
    "save_steps: 7": {"save_every": 7},
    "logging_steps: 7": {"log_every": 7},
    "save_total_limit: 7": {"keep_checkpoints": 7},
    "gradient_checkpointing: true": {"activation_checkpointing": True},
    "torch_compile: false": {"compile": "off"},
    "eval_dataset: b": {"heldout": "b"},
}


@pytest.mark.parametrize("text", CASES)
def test_familiar_names_are_read_as_ours_and_said(reads, text):
    loaded = stage_of(reads, text)
    assert loaded.recipe == Recipe(name="x", base="y", stages=[Finetune(data="a", **CASES[text])])
    old = [line.partition(":")[0] for line in text.split("\n") if line.partition(":")[0] in alias.STAGE]
    assert old
    for name in old:
        assert any(f"{name}: " in line and ".yaml:" in line and " is read as " in line for line in loaded.said)


def test_what_is_said(reads):
    said = stage_of(reads, "per_device_train_batch_size: 8\ngradient_accumulation_steps: 4").said
    assert [line.rpartition("r.yaml")[2] for line in said] == [
        ":6: per_device_train_batch_size: 8, gradient_accumulation_steps: 4"
        " is read as micro_batch_size: 8, batch_size: 32"
    ]
    assert stage_of(reads, "batch_size: 8").said == []


def test_at_the_top(reads):
    loaded = reads("run_name: x\nmodel_name_or_path: org/m\nstages:\n- pretrain: {dataset: a}\n")
    assert (loaded.recipe.name, loaded.recipe.base, len(loaded.said)) == ("x", "org/m", 3)


@pytest.mark.parametrize(
    ("text", "line", "fragment"),
    [
        ("learning_rate: 1\nlr: 2", 7, "'lr' and 'learning_rate' both set"),
        ("lora_r: 8\ntune: {lora: {rank: 4}}", 6, "both set 'tune.lora.rank'"),
        ("lora_r: 8\nlora_rank: 4", 6, "'lora_rank' and 'lora_r' both set 'tune.lora.rank'"),
        ("cutoff_len: 8\nmax_length: 9", 6, "both set 'context'"),
        ("tune: all\nlora_r: 8", 7, "'finetune.tune' is 'all' here"),
        ("gradient_accumulation_steps: 8\nbatch_size: 8", 6, "both set 'batch_size'"),
        ("gradient_accumulation_steps: eight", 6, "wanted a whole number"),
        ("gradient_accumulation_steps: [1]", 6, "wanted a whole number"),
        ("gradient_accumulation_steps: 0", 6, "wanted a number above 0"),
        ("optim: sgd", 6, "'sgd' is not offered"),
        ("optim: [sgd]", 6, "not offered"),
        ("bf16: perhaps", 6, "wanted true or false"),
        ("num_train_epochs: x", 6, "'epochs' in stage 'finetune': wanted a number, got 'x'"),
        ("dataset: b", 6, "'dataset' and 'data' both set 'data'"),
        ("num_train_epoch: 2", 6, "did you mean 'epochs'?"),
        ("adam_beta1: 2", 6, "wanted a number below 1"),
        ("fp16:", 6, "wanted true or false"),
    ],
)
def test_what_cannot_be_translated(reads, text, line, fragment):
    with pytest.raises(UsageProblem) as caught:
        stage_of(reads, text)
    assert caught.value.where.endswith(f"r.yaml:{line}")
    assert fragment in str(caught.value)


def test_every_path_leads_to_a_field():
    for table, owner in ((alias.STAGE, Finetune), (alias.RECIPE, Recipe)):
        for old, meaning in table.items():
            assert old not in owner.model_fields
            if isinstance(meaning, str):
                assert meaning.partition(".")[0] in owner.model_fields
