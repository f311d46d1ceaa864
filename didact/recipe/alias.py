"""The field's familiar names for our settings. Each translation is said aloud, never made in silence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from didact.settings import count

Given = Mapping[str, Any]
Meaning = str | Callable[[Given], dict[str, Any]]
"""The dotted path of our name, or what a group of names amounts to: paths and values."""


def _batch(given: Given) -> dict[str, Any]:
    """``batch_size`` = rows of one forward pass x accumulated passes."""
    micro = given.get("per_device_train_batch_size", given.get("micro_batch_size", 1))
    told = {"micro_batch_size": micro} if "per_device_train_batch_size" in given else {}
    if "gradient_accumulation_steps" in given:
        return told | {"batch_size": count(str(micro)) * count(str(given["gradient_accumulation_steps"]))}
    return told if "batch_size" in given else told | {"batch_size": micro}


def _precision(given: Given) -> dict[str, Any]:
    """Half precision is bfloat16 here; ``fp16`` asks for it where the device has it."""
    for name, meant in (("bf16", "bf16"), ("fp16", "auto")):
        if _truth(given.get(name, False), name):
            return {"precision": "auto" if given[name] == "auto" else meant}
    return {"precision": "fp32"}


def _truth(value: Any, name: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "auto": True, "false": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise ValueError(f"{name!r}: wanted true or false, got {str(value)[:60]!r}")
    return words[str(value).lower()]


def _compile(given: Given) -> dict[str, Any]:
    return {"compile": "on" if _truth(given["torch_compile"], "torch_compile") else "off"}


def _betas(given: Given) -> dict[str, Any]:
    now = given.get("betas", [])
    first, second = now if isinstance(now, list) and len(now) == 2 else (0.9, 0.95)
    return {"betas": [given.get("adam_beta1", first), given.get("adam_beta2", second)]}


def _words(name: str, path: str, meanings: dict[str, Any]) -> Callable[[Given], dict[str, Any]]:
    """A name whose values are called otherwise too; our own values stay as they are."""

    def meaning(given: Given) -> dict[str, Any]:
        value = str(given[name])
        if value not in meanings and value not in meanings.values():
            raise ValueError(f"{name!r}: {value[:60]!r} is not offered; there are {', '.join(meanings)}")
        return {path: meanings.get(value, value)}

    return meaning


def _targets(name: str) -> Callable[[Given], dict[str, Any]]:
    """Modules as a list or with commas; ``all`` is our default, every linear layer but the head."""

    def meaning(given: Given) -> dict[str, Any]:
        value = given[name]
        if isinstance(value, str):
            value = [] if value in ("all", "all-linear") else [word.strip() for word in value.split(",")]
        return {"tune.lora.targets": value}

    return meaning


OPTIMIZERS = {
    "adamw": "adamw", "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "muon": "muon",
}  # fmt: skip
SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}  # fmt: skip
TUNINGS = {"full": "all", "lora": "lora"}

STAGE: dict[str, Meaning] = {
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_train_steps": "max_steps",
    "num_train_steps": "max_steps",
    "num_training_steps": "max_steps",
    "train_steps": "max_steps",
    "num_tokens": "tokens",
    "train_tokens": "tokens",
    "cutoff_len": "context",
    "max_seq_length": "context",
    "max_seq_len": "context",
    "max_length": "context",
    "sequence_len": "context",
    "seq_length": "context",
    "block_size": "context",
    "per_device_train_batch_size": _batch,
    "gradient_accumulation_steps": _batch,
    "train_batch_size": "batch_size",
    "global_batch_size": "batch_size",
    "lr": "learning_rate",
    "lr_scheduler_type": _words("lr_scheduler_type", "schedule", SCHEDULES),
    "lr_scheduler": _words("lr_scheduler", "schedule", SCHEDULES),
    "optim": _words("optim", "optimizer", OPTIMIZERS),
    "adam_beta1": _betas,
    "adam_beta2": _betas,
    "adam_epsilon": "eps",
    "max_grad_norm": "grad_clip",
    "gradient_clipping": "grad_clip",
    "lora": "tune.lora",
    "lora_r": "tune.lora.rank",
    "lora_rank": "tune.lora.rank",
    "lora_alpha": "tune.lora.alpha",
    "lora_dropout": "tune.lora.dropout",
    "lora_target": _targets("lora_target"),
    "lora_target_modules": _targets("lora_target_modules"),
    "target_modules": _targets("target_modules"),
    "adapter": _words("adapter", "tune", {"lora": "lora"}),
    "finetuning_type": _words("finetuning_type", "tune", TUNINGS),
    "bf16": _precision,
    "fp16": _precision,
    "torch_compile": _compile,
    "gradient_checkpointing": "activation_checkpointing",
    "packing": "pack",
    "sample_packing": "pack",
    "dataset": "data",
    "datasets": "data",
    "train_data": "data",
    "train_file": "data",
    "eval_dataset": "heldout",
    "validation_file": "heldout",
    "save_steps": "save_every",
    "logging_steps": "log_every",
    "save_total_limit": "keep_checkpoints",
}
"""Names in a training stage."""

RECIPE: dict[str, Meaning] = {
    "model_name_or_path": "base",
    "base_model": "base",
    "model_name": "base",
    "model": "base",
    "run_name": "name",
}
"""Names at the top of a recipe."""


@dataclass(frozen=True)
class Translation:
    """``old`` names, of which the first says the place, and the values of ours that they amount to."""

    old: tuple[str, ...]
    new: dict[str, Any]


def translations(table: Mapping[str, Meaning], given: Given, beside: Given) -> list[Translation]:
    """What the familiar names among ``given`` amount to; ``beside`` holds what they are combined with.

    Raises ValueError when a value cannot be translated or one setting is given under two names.
    """
    groups: dict[Meaning, list[str]] = {}
    for old in given:
        if old in table:
            groups.setdefault(table[old] if callable(table[old]) else old, []).append(old)
    said: dict[str, str] = {}
    found = []
    for meaning, old in groups.items():
        path = table[old[0]]
        new = meaning({**beside, **given}) if callable(meaning) else {str(path): given[old[0]]}
        for name in new:
            other = said.get(name) or (name if _holds(given, name) else None)
            if other:
                raise ValueError(f"{old[0]!r} and {other!r} both set {name!r}; give one of them")
            said[name] = old[0]
        found.append(Translation(tuple(old), new))
    # a whole ``tune`` comes before the parts of it
    return sorted(found, key=lambda t: max(name.count(".") for name in t.new))


def _holds(given: Given, path: str) -> bool:
    here: Any = given
    for part in path.split("."):
        if not isinstance(here, dict) or part not in here:
            return False
        here = here[part]
    return True
