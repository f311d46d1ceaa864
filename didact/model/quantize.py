"""Linear layers on CPU with weights of 8 or 4 bits, for serving in less memory; activations stay as they are.

Eight bits have one scale a row, symmetric; four bits a scale and a zero for every 32 weights of a row. The products
are torch's own kernels, for few rows as fast as the laid-out bf16 weights or faster.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from didact.errors import UsageProblem

Bits = Literal["int8", "int4"]
GROUP = 32  # weights that share a scale
FEW = 16  # rows up to which the 8-bit kernel beats the product with the weights written out
OUT = 16  # the kernels take outputs in multiples of this


class Few(nn.Module):
    """A linear layer with a weight of few bits, kept in buffers."""

    def __init__(self, linear: nn.Linear, bits: Bits):
        super().__init__()
        self.bits, self.bias = bits, linear.bias
        stored, scale = (_eight if bits == "int8" else _four)(linear.weight.detach().float())
        self.register_buffer("stored", stored)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        rows = x.flatten(0, -2).bfloat16()
        out = self._product(rows).to(x.dtype).unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias

    def _product(self, rows: Tensor) -> Tensor:
        stored, scale = self.get_buffer("stored"), self.get_buffer("scale")
        if self.bits == "int4":
            return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, stored, GROUP, scale)
        if len(rows) > FEW:
            return nn.functional.linear(rows, stored.bfloat16() * scale[:, None])
        return torch.ops.aten._weight_int8pack_mm(rows, stored, scale)

    @property
    def size(self) -> int:
        """Bytes of the weight."""
        return sum(buffer.nbytes for buffer in self.buffers())


def quantize(net: nn.Module, bits: Bits, head: nn.Module | None) -> tuple[int, int]:
    """Gives every linear layer but the head a weight of few bits, in place; bytes of these before and after.

    Layers whose shape the kernels do not take stay as they are. Raises UsageProblem off the CPU, or where no layer can
    be changed.
    """
    if any(weight.device.type != "cpu" for weight in net.parameters()):
        raise UsageProblem("weights of few bits are for the CPU", where=f"--quantize {bits}", remedy="add --device cpu")
    fits = [
        (name, module)
        for name, module in net.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and not (module.out_features % OUT or module.in_features % GROUP)
    ]
    if not fits:
        raise UsageProblem("no linear layer of this model can be quantized", remedy="leave --quantize out")
    before = after = 0
    for name, module in fits:
        few = Few(module, bits)
        before, after = before + module.weight.nbytes, after + few.size
        net.set_submodule(name, few)
    return before, after


def _eight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [out, in] and its scales bf16 [out]."""
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12).bfloat16()
    return (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _four(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Packed int4 and, bf16 [in / 32, out, 2], the scale and what a stored 8 stands for."""
    out, width = weight.shape
    groups = weight.view(out, width // GROUP, GROUP)
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((most - least) / 15).clamp(min=1e-12).bfloat16().float()
    zero = (least + 8 * scale).bfloat16().float()
    level = ((groups - zero) / scale + 8).round().clamp(0, 15).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(level.view(out, width), 1)
    return packed, torch.cat([scale, zero], -1).transpose(0, 1).contiguous().bfloat16()
