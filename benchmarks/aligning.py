"""Alignment beside TRL: one step of DPO, KTO, GRPO and PPO on the same prompts and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import aligned
from benchmarks.case import ROUNDED, Case, Inputs, Peer, Plan, Side, timed
from benchmarks.hyper import RATE_PREFERENCE

PACKAGES = ("trl", "transformers", "accelerate", "torch")
IN_BF16 = {"weights": "bfloat16", "precision": "fp32"}


def trl(run: str, name: str, about: str, lesser: str = "", **options: Any) -> Side:
    base = {"precision": "bf16", "weights": "float32", "attention": "sdpa", "rate": RATE_PREFERENCE}
    return Side(f"TRL {name}", run, about, {**base, **options}, lesser)


def sides(run: str, trainer: str, **options: Any) -> tuple[Side, ...]:
    """TRL as it might be fastest."""
    return (
        trl(run, "sdpa", f"{trainer}, padded, sdpa, autocast bf16", **options),
        trl(run, "eager", f"{trainer}, padded, eager attention, autocast bf16", attention="eager", **options),
        trl(run, "bf16 weights", f"{trainer}, weights and AdamW in bf16", ROUNDED, **{**options, **IN_BF16}),
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
        peers=(Peer("TRL", PACKAGES, sides(f"peer_trl_align:{name}", trainer)),),
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

GROUPS: dict[str, Any] = {"group": aligned.GROUP, "epochs": 1, "beta": 0.0}
GRPO = Case(
    name="grpo",
    about=f"SmolLM2-135M, all weights, bf16; 2 prompts of about 64 tokens a step, {aligned.GROUP} answers of "
    f"{aligned.NEW_TOKENS} tokens each: sampling, reward, gradient and update; tokens are those written",
    ours=ours(
        "reinforce",
        "a group's prompt is read once, in sampling and in the gradient; the reference is read",
        **{"objective": "grpo", **GROUPS},
    ),
    peers=(
        Peer(
            "TRL",
            PACKAGES,
            (
                *sides(
                    "peer_trl_align:grpo",
                    "GRPOTrainer without a reference, transformers' generate",
                    group=aligned.GROUP,
                    continuous=False,
                ),
                trl(
                    "peer_trl_align:grpo",
                    "continuous batching",
                    "GRPOTrainer without a reference, continuous batching of transformers",
                    group=aligned.GROUP,
                    continuous=True,
                ),
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


SINGLE: dict[str, Any] = {"epochs": aligned.EPOCHS, "beta": 0.05}
CRITIC = "PPOTrainer, its value model a head on the policy's own network, which TRL reads once more for it"


def ppo(name: str, about: str, lesser: str = "", **options: Any) -> Side:
    return trl("peer_trl_ppo:ppo", name, about, lesser, **{**SINGLE, "critic": "trunk", "everywhere": False, **options})


PPO = Case(
    name="ppo",
    about=f"SmolLM2-135M, all weights, bf16; 4 prompts of about 64 tokens a step, an answer of {aligned.NEW_TOKENS} "
    f"tokens each: sampling, reward, reference, critic, and {aligned.EPOCHS} updates on all answers; tokens are those "
    "written; the reward is a function, which TRL gets in the form of a network",
    ours=ours(
        "reinforce",
        "a value head on the policy's network, which is read once for both; gradients are clipped, TRL's are not",
        **{"objective": "ppo", "group": 1, **SINGLE},
    ),
    peers=(
        Peer(
            "TRL",
            PACKAGES,
            (
                ppo("sdpa", f"{CRITIC}; padded, sdpa, autocast bf16 in the gradient, sampling in fp32"),
                ppo("eager", "the same with eager attention", attention="eager"),
                ppo(
                    "autocast everywhere",
                    "the first with autocast bf16 in sampling too",
                    "its log-probabilities and values are rounded to bf16, so that ratios are off before any update",
                    everywhere=True,
                ),
                ppo("bf16 weights", "the first with weights and AdamW in bf16", ROUNDED, **IN_BF16),
                ppo(
                    "table",
                    "the first with a value model that is a table of the ids",
                    "its critic sees one token and nothing before it",
                    critic="table",
                ),
            ),
            agrees=False,
            apart="trl-ppo",
        ),
    ),
    prepare=aligned.rolling,
    parts=timed,
    full=Plan(rounds=3, warmup=1, measured=1, documents=4, trial=1),
    quick=Plan(rounds=2, warmup=1, measured=1, documents=2, trial=0),
    tolerance=0.0,
    why=GRPO.why,
)

ALIGNING = (DPO, KTO, GRPO, PPO)
