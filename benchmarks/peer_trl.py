"""TRL's side: its SFTTrainer, for all weights or for peft's LoRA."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.case import Job, Measured
from benchmarks.peer_hf import Timer, arguments, examples, finished, load


def train(job: Job) -> Measured:
    """``options``: ``padding_free``, ``precision``, ``weights``, ``attention``.

    Its packing is left out: rows of the same documents with their ``seq_lengths`` go through the same collator and
    gave the very same losses as padding_free.
    """
    model = load(job)
    if "adapter" in job.inputs.extra:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, job.inputs.extra["adapter"], is_trainable=True)
    timer = Timer()
    settings: dict[str, Any] = {**arguments(job), "padding_free": job.options["padding_free"], "max_length": None}
    trained = SFTTrainer(
        model,
        SFTConfig(**settings),
        train_dataset=Dataset.from_list(examples(job)),
        processing_class=AutoTokenizer.from_pretrained(job.inputs.model),
        callbacks=[timer],
    )
    trained.train()
    return finished(trained, timer, job)
