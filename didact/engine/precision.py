"""In which type a model computes, and what of it is compiled."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from didact.engine.settings import Training
from didact.model.model import Model

COMPILE_REPAYS = 400  # steps; compiling takes 10-25 s cold and saves about a sixth of a CPU step


def pick_dtype(precision: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype:
    """The type of the products. ``auto`` takes bf16 where the device multiplies it natively, else fp32."""
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    native = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: "avx512_bf16" in cpu_flags() or "amx_bf16" in cpu_flags(),
        "mps": lambda: False,
    }[device.type]()
    return torch.bfloat16 if native else torch.float32


def cpu_flags() -> set[str]:
    """Names of this processor's bf16 instructions, as torch detects them."""
    return {name for name, has in torch.cpu.get_capabilities().items() if has is True}


@dataclass(frozen=True)
class Numerics:
    """How a model's numbers come about. Two that round alike are compared without what rounding would add."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compiled: bool = False


def compiles(settings: Training, steps: int) -> bool:
    """Whether compiling is wanted for a run of so many steps."""
    return settings.compile == "on" or (settings.compile == "auto" and steps >= COMPILE_REPAYS)


def compiled(model: Model, wanted: bool = True) -> Model:
    """Compiles the pointwise parts of every layer (its MLP and norms) in place where that is wanted.

    Attention stays outside the graph: whole layers, broken around it, gained nothing when measured.
    """
    if wanted:
        for layer in model.layers:
            for name, child in layer.named_children():
                if "attn" not in name and "attention" not in name and isinstance(child, nn.Module):
                    child.compile(dynamic=True)
    return model
