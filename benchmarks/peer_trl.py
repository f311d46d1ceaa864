"""TRL's side: its SFTTrainer, for all weights or for peft's LoRA."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.case import Job, Measured
from benchmarks.peer_hf import Timer, arguments, examples, finished, load


def train(job: Job) -> Measured:
    """``options``: ``padding_free``, ``packed`` (each step one row, packed beforehand as its packing leaves it),
    ``precision``, ``weights``, ``attention``."""
    model = load(job)
    if "adapter" in job.inputs.extra:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, job.inputs.extra["adapter"], is_trainable=True)
    timer = Timer()
    settings: dict[str, Any] = {**arguments(job), "padding_free": job.options["padding_free"], "max_length": None}
    data = examples(job)
    if job.options["packed"]:
        settings["per_device_train_batch_size"] = 1
        data = rows(data, len(job.inputs.steps[0]))
    trained = SFTTrainer(
        model,
        SFTConfig(**settings),
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(job.inputs.model),
        callbacks=[timer],
    )
    trained.train()
    return finished(trained, timer, job)


def rows(data: list[dict], size: int) -> list[dict]:
    """Each ``size`` examples as one row with its ``seq_lengths``, the columns that TRL's packing makes."""
    steps = [data[start : start + size] for start in range(0, len(data), size)]
    return [
        {
            "input_ids": [token for example in step for token in example["input_ids"]],
            "labels": [label for example in step for label in example["labels"]],
            "seq_lengths": [len(example["input_ids"]) for example in step],
        }
        for step in steps
    ]
