"""Alignment beside TRL: one step of DPO, KTO and GRPO on the same prompts and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import aligned
from benchmarks.case import ROUNDED, Case, Inputs, Peer, Plan, Side, timed
from benchmarks.hyper import RATE_PREFERENCE

PACKAGES = ("trl", "transformers", "accelerate", "torch")


def trl(run: str, name: str, about: str, lesser: str = "", **options: Any) -> Side:
    base = {"precision": "bf16", "weights": "float32", "attention": "sdpa", "rate": RATE_PREFERENCE}
    return Side(f"TRL {name}", f"peer_trl_align:{run}", about, {**base, **options}, lesser)


def sides(run: str, trainer: str, **options: Any) -> tuple[Side, ...]:
    """TRL as it might be fastest."""
    rounded = {"weights": "bfloat16", "precision": "fp32"}
    return (
        trl(run, "sdpa", f"{trainer}, padded, sdpa, autocast bf16", **options),
        trl(run, "eager", f"{trainer}, padded, eager attention, autocast bf16", attention="eager", **options),
        trl(run, "bf16 weights", f"{trainer}, weights and AdamW in bf16", ROUNDED, **{**options, **rounded}),
    )


def ours(run: str, about: str, **options: Any) -> Side:
    return Side(
        "Didact",
        f"ours_align:{run}",
        f"{about}, bf16 products over fp32 masters, MLPs and norms compiled",
        {"precision": "bf16", "compile": "on", "rate": RATE_PREFERENCE, **options},
    )


def preferring(name: str, about: str, prepare: Callable[[Path, Plan], Inputs], documents: int) -> Case:
    """One step on answers that are there already; the reference's log-probabilities were made before."""
    trainer = f"{name.upper()}Trainer, precompute_ref_log_probs"
    return Case(
        name=name,
        about=f"SmolLM2-135M, all weights, bf16; {about}, of ragged length; reference log-probabilities made before",
        ours=ours("prefer", "one row a step, in which each prompt stands once", objective=name),
        peers=(Peer("TRL", PACKAGES, sides(name, trainer)),),
        prepare=prepare,
        parts=timed,
        full=Plan(rounds=5, warmup=1, measured=2, documents=documents, trial=1),
        quick=Plan(rounds=2, warmup=1, measured=1, documents=documents // 2, trial=0),
        tolerance=0.1,
        why="the loss is of sums of log-probabilities of bf16 logits over answers of some hundred tokens",
    )


DPO = preferring("dpo", "4 pairs a step", aligned.preferring, 4)
KTO = preferring(
    "kto",
    "8 answers a step, half of them desirable, and for the KL each other's answers to their prompts",
    aligned.labelling,
    8,
)

GRPO = Case(
    name="grpo",
    about=f"SmolLM2-135M, all weights, bf16; 2 prompts of about 64 tokens a step, {aligned.GROUP} answers of "
    f"{aligned.NEW_TOKENS} tokens each: sampling, reward, gradient and update; tokens are those written",
    ours=ours("reinforce", "a group's prompt is read once, in sampling and in the gradient", objective="grpo"),
    peers=(
        Peer(
            "TRL",
            PACKAGES,
            (
                *sides("grpo", "GRPOTrainer, transformers' generate", continuous=False),
                trl("grpo", "continuous batching", "GRPOTrainer, continuous batching of transformers", continuous=True),
            ),
            agrees=False,
        ),
    ),
    prepare=aligned.rolling,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=2, documents=2, trial=1),
    quick=Plan(rounds=2, warmup=1, measured=1, documents=1, trial=0),
    tolerance=0.0,
    why="answers are drawn at random; the tests hold the losses to TRL's on the same tensors",
)

ALIGNING = (DPO, KTO, GRPO)
