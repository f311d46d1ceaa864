"""TRL's side of alignment: DPO, KTO and GRPO, each in one process on data that is tokenized already."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer

from benchmarks.aligned import of_labels, of_pairs, reward
from benchmarks.case import Job, Measured
from benchmarks.peer_hf import Timer, arguments, load, watch


class Pairs(DPOTrainer):
    """DPO on token ids."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


class Labels(KTOTrainer):
    """KTO on token ids, each batch's completions turned by one for its KL."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def dpo(job: Job) -> Measured:
    """``options``: ``precision``, ``weights``, ``attention``, ``rate``; reference log-probabilities made before."""
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    data = [dict(zip(names, pair, strict=True)) for step in job.inputs.steps for pair in step]
    settings = DPOConfig(**arguments(job), beta=0.1, max_length=None, precompute_ref_log_probs=True)
    return _trained(Pairs, job, settings, data, [of_pairs(step) for step in job.inputs.steps])


def kto(job: Job) -> Measured:
    """The options of ``dpo``; of each step half of the answers are desirable."""
    data = []
    for step in job.inputs.steps:
        turned = [answer for _, answer, _ in [step[-1], *step[:-1]]]
        data += [
            {"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": label}
            for (prompt, answer, label), other in zip(step, turned, strict=True)
        ]
    settings = KTOConfig(**arguments(job), beta=0.1, max_length=None, precompute_ref_log_probs=True)
    return _trained(Labels, job, settings, data, [of_labels(step) for step in job.inputs.steps])


def grpo(job: Job) -> Measured:
    """The options of ``dpo``, ``continuous`` and ``group``: so many answers of ``extra["new_tokens"]`` each."""
    group, new = job.options["group"], job.inputs.extra["new_tokens"]
    settings = arguments(job)
    settings["per_device_train_batch_size"] = group * len(job.inputs.steps[0])
    told = GRPOConfig(
        **settings,
        num_generations=group,
        max_completion_length=new,
        generation_kwargs={"min_new_tokens": new},
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        use_transformers_continuous_batching=job.options["continuous"],
        shuffle_dataset=False,
    )

    def score(completions: list[str], **others: Any) -> list[float]:
        return [reward(text) for text in completions]

    data = [{"prompt": text} for step in job.inputs.extra["texts"] for text in step]
    timer, model = Timer(), load(job)
    trained = GRPOTrainer(
        model,
        score,
        told,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(job.inputs.model),
        callbacks=[timer],
    )
    watch(timer.clock, model, trained)
    trained.train()
    losses = [float(entry["loss"]) for entry in trained.state.log_history if "loss" in entry]
    tokens = [group * new * len(step) for step in job.inputs.steps]
    return Measured(timer.clock.laps, tokens, losses, spent=timer.clock.spent)


def _trained(kind: Any, job: Job, settings: Any, data: list[dict[str, Any]], tokens: list[int]) -> Measured:
    timer = Timer()
    trained = kind(
        load(job),
        args=settings,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(job.inputs.model),
        callbacks=[timer],
    )
    trained.train()
    losses = [float(entry["loss"]) for entry in trained.state.log_history if "loss" in entry]
    return Measured(timer.clock.laps, tokens, losses)
