"""Hyper-parameters of every side of every training case."""

from typing import Any

HYPER: dict[str, Any] = {
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "schedule": "constant",
}
RATE_FINETUNE, RATE_LORA, RATE_PRETRAIN, RATE_PREFERENCE = 2e-5, 2e-4, 1e-3, 1e-6


def adamw() -> dict[str, Any]:
    """The same for torch's AdamW."""
    return {"betas": HYPER["betas"], "eps": HYPER["eps"], "weight_decay": HYPER["weight_decay"]}


def trainer(rate: float) -> dict[str, Any]:
    """The same for transformers' TrainingArguments and what derives from them."""
    return {
        "learning_rate": rate,
        "adam_beta1": HYPER["betas"][0],
        "adam_beta2": HYPER["betas"][1],
        "adam_epsilon": HYPER["eps"],
        "weight_decay": HYPER["weight_decay"],
        "max_grad_norm": HYPER["grad_clip"],
        "lr_scheduler_type": HYPER["schedule"],
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
    }
