"""sentence-transformers' side: its losses in a bare loop, and its encode."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.case import Job, Measured
from benchmarks.clock import Clock
from benchmarks.hyper import HYPER, adamw


def load(job: Job) -> Any:
    """The model with the attention and the type of weights the options name."""
    from sentence_transformers import SentenceTransformer

    kind = {"dtype": getattr(torch, job.options["weights"]), "attn_implementation": job.options["attention"]}
    return SentenceTransformer(job.inputs.model, device="cpu", model_kwargs=kind)


def train(job: Job) -> Measured:
    """``options``: ``cached`` (pairs the cached loss reads at once; 0: the plain one), ``rate``. Tokenized before."""
    from sentence_transformers.sentence_transformer import losses as known

    model = load(job).train()
    cached = job.options["cached"]
    loss: Any = (
        known.CachedMultipleNegativesRankingLoss(model, scale=20, mini_batch_size=cached)
        if cached
        else known.MultipleNegativesRankingLoss(model, scale=20)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.options["rate"], fused=True, **adamw())
    steps = [[model.preprocess(list(column)) for column in zip(*step, strict=True)] for step in job.inputs.steps]
    clock, losses, tokens = Clock(), [], []
    for columns in steps:
        with torch.autocast("cpu", torch.bfloat16, enabled=job.options["precision"] == "bf16"):
            value = loss([dict(column) for column in columns], torch.zeros(0))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), HYPER["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
        tokens.append(sum(int(column["attention_mask"].sum()) for column in columns))
        clock.lap()
    return Measured(clock.laps, tokens, losses)


def encode(job: Job) -> Measured:
    """``encode`` as it comes: sorted by length, padded, ``batch`` texts at once."""
    model = load(job).eval()
    clock, tokens, alike = Clock(), [], []
    for texts in job.inputs.steps:
        vectors = model.encode(texts, batch_size=job.options["batch"], convert_to_tensor=True)
        clock.lap()
        tokens.append(sum(len(ids) for ids in model.tokenizer(texts, truncation=True)["input_ids"]))
        alike.append(float((vectors.float() @ vectors[0].float()).mean()))
    return Measured(clock.laps, tokens, alike)
