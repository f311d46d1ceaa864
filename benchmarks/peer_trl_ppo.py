"""TRL's side of PPO, in the last TRL that has it: its folder comes first, before any other TRL is imported."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from benchmarks.case import Job, Measured, beside

sys.path.insert(0, beside("trl-ppo"))
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.aligned import reward
from benchmarks.peer_hf import Timer, arguments, load, watch

PAD = "<|endoftext|>"  # any id that is not drawn: where TRL finds it, an answer ends


class Critic(nn.Module):
    """A head on a network, as TRL asks for a value model: with the policy's own network it is the critic of ours."""

    base_model_prefix = "body"

    def __init__(self, body: nn.Module, width: int, dtype: torch.dtype):
        super().__init__()
        self.body, self.score = body, nn.Linear(width, 1, dtype=dtype)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)


class Table(nn.Module):
    """A critic that sees a token and nothing before it."""

    def __init__(self, vocabulary: int, width: int, dtype: torch.dtype):
        super().__init__()
        self.table = nn.Embedding(vocabulary, width, dtype=dtype)

    def forward(self, input_ids: Tensor, **others: Any) -> Any:
        return SimpleNamespace(hidden_states=[self.table(input_ids)])


class Judge(nn.Module):
    """The reward of all sides as TRL asks for it: a network that scores every token, here each as its whole answer."""

    base_model_prefix = "body"

    def __init__(self, tokenizer: Any, new: int):
        super().__init__()
        self.body, self.score = Spaces(tokenizer, new), nn.Identity()


class Spaces(nn.Module):
    def __init__(self, tokenizer: Any, new: int):
        super().__init__()
        self.tokenizer, self.new = tokenizer, new

    def forward(self, input_ids: Tensor, **others: Any) -> Any:
        texts = self.tokenizer.batch_decode(input_ids[:, -self.new :])
        score = torch.tensor([reward(text) for text in texts])
        return SimpleNamespace(hidden_states=[score[:, None, None].expand(*input_ids.shape, 1)])


def ppo(job: Job) -> Measured:
    """The options of ``dpo``; ``critic``: ``trunk`` or ``table``; ``everywhere``: autocast also while sampling.

    TRL casts in the gradient alone; what it samples and what its critic says of it, it computes in the weights' type.
    The reference, which nothing trains, is in bf16.
    """
    new, size = job.inputs.extra["new_tokens"], len(job.inputs.steps[0])
    casts = job.options["precision"] == "bf16"
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if casts and not job.options["everywhere"] else "no"
    told = PPOConfig(
        **arguments(job),
        total_episodes=size * len(job.inputs.steps),
        local_rollout_forward_batch_size=size,
        num_sample_generations=0,
        response_length=new,
        temperature=1.0,
        num_ppo_epochs=job.options["epochs"],
        num_mini_batches=1,
        kl_coef=job.options["beta"],
    )
    tokenizer = AutoTokenizer.from_pretrained(job.inputs.model, padding_side="left", pad_token=PAD)
    policy: Any = load(job)
    critic = {
        "trunk": lambda: Critic(policy.model, policy.config.hidden_size, policy.dtype),
        "table": lambda: Critic(Table(policy.config.vocab_size, 1, policy.dtype), 1, policy.dtype),
    }[job.options["critic"]]()
    data = [{"input_ids": prompt} for step in job.inputs.steps for prompt in step]
    timer = Timer()
    trained = PPOTrainer(
        told,
        tokenizer,
        policy,
        AutoModelForCausalLM.from_pretrained(job.inputs.model, dtype=torch.bfloat16),
        Judge(tokenizer, new),
        Dataset.from_list(data),
        critic,
        callbacks=[timer],
    )
    watch(timer.clock, policy, trained)
    everywhere = casts and job.options["everywhere"]
    # a cast that is kept would outlive the update of its weight
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if everywhere else nullcontext():
        trained.train()
    losses = [
        entry["loss/policy_avg"] + told.vf_coef * entry["loss/value_avg"]
        for entry in trained.state.log_history
        if "loss/policy_avg" in entry
    ]
    tokens = [new * len(step) for step in job.inputs.steps]
    return Measured(timer.clock.laps, tokens, losses, spent=timer.clock.spent)
