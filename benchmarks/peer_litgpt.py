"""litgpt's side: its model, its loss and the inner loop of its ``pretrain`` on Lightning's Fabric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import chunked_cross_entropy
from safetensors.torch import load_file

from benchmarks.case import Job, Measured
from benchmarks.clock import Clock
from benchmarks.hyper import HYPER, adamw
from benchmarks.peer_hf import tokens_read


def model(folder: Path) -> GPT:
    """The Llama in the folder as litgpt has it."""
    raw = json.loads((folder / "config.json").read_text())
    config = Config(
        block_size=raw["max_position_embeddings"],
        n_layer=raw["num_hidden_layers"],
        n_embd=raw["hidden_size"],
        vocab_size=raw["vocab_size"],
        padded_vocab_size=raw["vocab_size"],
        norm_class_name="RMSNorm",
        norm_eps=raw["rms_norm_eps"],
        parallel_residual=False,
        n_head=raw["num_attention_heads"],
        n_query_groups=raw["num_key_value_heads"],
        rope_base=int(raw["rope_parameters"]["rope_theta"]),
        rotary_percentage=1.0,
        intermediate_size=raw["intermediate_size"],
        bias=False,
        mlp_class_name="LLaMAMLP",
    )
    net, state = GPT(config), {}
    weights: dict[str, Any] = dict(load_file(folder / "model.safetensors"))
    copy_weights_hf_llama(config, {}, state, weights)
    net.load_state_dict(state)
    return net


def train(job: Job) -> Measured:
    """``options``: ``precision`` as Fabric names it, ``compile``, ``fused``."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=job.options["precision"])
    bare = model(Path(job.inputs.model))
    net = fabric.setup(cast(torch.nn.Module, torch.compile(bare) if job.options["compile"] else bare))
    adam = torch.optim.AdamW(net.parameters(), lr=job.options["rate"], fused=job.options["fused"], **adamw())
    optimizer = cast(Any, fabric.setup_optimizers(adam))
    clock, losses = Clock(), []
    for step in job.inputs.steps:
        rows = torch.tensor([tokens for tokens, _ in step])
        logits = net(rows[:, :-1].contiguous())
        loss = chunked_cross_entropy(logits, rows[:, 1:].contiguous())
        fabric.backward(loss)
        fabric.clip_gradients(net, optimizer, max_norm=HYPER["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        clock.lap()
    return Measured(clock.laps, tokens_read(job), losses)
