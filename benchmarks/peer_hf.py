"""transformers' side: its Trainer, a bare loop around its model, and its generate."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.case import Job, Measured
from benchmarks.clock import Clock
from benchmarks.hyper import HYPER, adamw, trainer

IGNORED = -100


def examples(job: Job) -> list[dict[str, list[int]]]:
    """Every document in order, with labels that leave the prompt out."""
    return [
        {"input_ids": tokens, "labels": [IGNORED] * prompt + tokens[prompt:]}
        for step in job.inputs.steps
        for tokens, prompt in step
    ]


def tokens_read(job: Job) -> list[int]:
    """Tokens of each step without padding."""
    return [sum(len(tokens) for tokens, _ in step) for step in job.inputs.steps]


def load(job: Job, auto: Any = AutoModelForCausalLM) -> PreTrainedModel:
    """The model with the attention and the type of weights the options name."""
    return auto.from_pretrained(
        job.inputs.model,
        dtype=getattr(torch, job.options["weights"]),
        attn_implementation=job.options["attention"],
    )


class Timer(TrainerCallback):
    """Laps of the Trainer's steps."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.lap()


def watch(clock: Clock, model: PreTrainedModel, trainer: Any) -> None:
    """Lets the clock say what of a step is sampling, backward and update; what else there is are forward passes."""
    calls: Any = model
    calls.generate = clock.within("sampling", calls.generate)
    calls.generate_batch = clock.within("sampling", calls.generate_batch)
    trainer.accelerator.backward = clock.within("backward", trainer.accelerator.backward)
    inside = ExitStack()
    register_optimizer_step_pre_hook(lambda *args: inside.enter_context(clock.part("update")))
    register_optimizer_step_post_hook(lambda *args: inside.close())


def arguments(job: Job) -> dict[str, Any]:
    """What every Trainer is told: this data in this order, nothing saved, nothing reported, no checkpointing."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": len(job.inputs.steps),
        "per_device_train_batch_size": len(job.inputs.steps[0]),
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": job.options["precision"] == "bf16",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        **trainer(job.options["rate"]),
    }


def finished(trained: Trainer, timer: Timer, job: Job) -> Measured:
    losses = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
    return Measured(timer.clock.laps, tokens_read(job), [float(loss) for loss in losses])


def train(job: Job) -> Measured:
    """Trainer; ``options``: ``flatten`` (else padded), ``compile``, ``precision``, ``weights``, ``attention``."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, DataCollatorWithFlattening

    tokenizer: Any = AutoTokenizer.from_pretrained(job.inputs.model)
    collate = DataCollatorWithFlattening() if job.options["flatten"] else DataCollatorForSeq2Seq(tokenizer)
    timer = Timer()
    trained = Trainer(
        load(job),
        TrainingArguments(**arguments(job), torch_compile=job.options["compile"]),
        data_collator=collate,
        train_dataset=cast(Any, examples(job)),  # a list is all that the sampler asks for
        callbacks=[timer],
    )
    trained.train()
    return finished(trained, timer, job)


def masked(job: Job) -> Measured:
    """Trainer with DataCollatorForLanguageModeling: padded, 15 % of the tokens masked as BERT does."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    tokenizer: Any = AutoTokenizer.from_pretrained(job.inputs.model)
    timer = Timer()
    trained = Trainer(
        load(job, AutoModelForMaskedLM),
        TrainingArguments(**arguments(job), torch_compile=job.options["compile"]),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15),
        train_dataset=cast(Any, [{"input_ids": one["input_ids"]} for one in examples(job)]),
        callbacks=[timer],
    )
    trained.train()
    return finished(trained, timer, job)


def pretrain(job: Job) -> Measured:
    """The leanest loop there is: forward with labels, backward, clip, fused AdamW."""
    model: Any = load(job).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.options["rate"], fused=True, **adamw())
    forward = torch.compile(model) if job.options["compile"] else model
    clock, losses = Clock(), []
    for step in job.inputs.steps:
        token = torch.tensor([tokens for tokens, _ in step])
        with torch.autocast("cpu", torch.bfloat16, enabled=job.options["precision"] == "bf16"):
            loss: Tensor = forward(input_ids=token, labels=token, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), HYPER["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        clock.lap()
    return Measured(clock.laps, tokens_read(job), losses)


@torch.inference_mode()
def generate(job: Job) -> Measured:
    """``generate``, greedy and without an id that ends it; prompts are padded on the left."""
    model: Any = load(job).eval()
    wanted = job.inputs.extra["new_tokens"]
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    clock, tokens, generated = Clock(), [], []
    for prompts in job.inputs.steps:
        width = max(map(len, prompts))
        token = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = model.generate(input_ids=token, attention_mask=mask, max_new_tokens=wanted, do_sample=False)
        answers = out[:, width:].tolist()
        clock.lap()
        tokens.append(sum(map(len, answers)))
        generated += answers
    return Measured(clock.laps, tokens, generated=generated)
