"""Linear layers on CPU with their weights laid out once for the product, while a model only generates.

oneDNN reorders a bf16 weight at every call; for a few rows that is as long as the product itself. Laid out beforehand
the same numbers come out (bit for bit) in half the time for one row, in three quarters for sixteen. It costs a second
copy of the weights, held until they change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

ROWS = 64  # above so many rows the reordering no longer matters

_packed: WeakKeyDictionary[nn.Linear, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()


@contextmanager
def prepacked(net: nn.Module) -> Iterator[None]:
    """Every plain bf16 linear layer on the CPU computes from its laid-out weight while the block runs."""
    changed = [module for module in net.modules() if type(module) is nn.Linear and _fits(module.weight)]
    for module in changed:
        module.forward = partial(_forward, module, _layout(module))
    try:
        yield
    finally:
        for module in changed:
            del module.forward  # the class's own comes back


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()


def _layout(module: nn.Linear) -> Tensor:
    """The weight laid out, made again when the weight was written or replaced since."""
    state = (module.weight.data_ptr(), module.weight._version)
    known = _packed.get(module)
    if known is None or known[0] != state:
        known = (state, torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), 1))
        _packed[module] = known
    return known[1]


def _forward(module: nn.Linear, layout: Tensor, x: Tensor) -> Tensor:
    if x.numel() > ROWS * x.shape[-1] or torch.is_grad_enabled():
        return nn.functional.linear(x, module.weight, module.bias)
    return torch.ops.mkldnn._linear_pointwise(x, layout, module.bias, "none", [], "")
