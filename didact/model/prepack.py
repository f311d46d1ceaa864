"""Linear layers on CPU with their weights laid out once for the product, while a model only generates.

oneDNN reorders a bf16 weight at every call; for a few rows that is as long as the product itself. Laid out beforehand
the same numbers come out (bit for bit) in half the time for one row, in three quarters for sixteen. Layers that read
the same input (query, key and value; gate and up) become one product, which saves what a small call costs. It takes a
second copy of the weights, held until they change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from didact.model.uncompiled import uncompiled

ROWS = 64  # above so many rows the reordering no longer matters
# Layers that transformers' models run one after the other on the same tensor.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

Key = tuple[tuple[int, int], ...]
_packed: WeakKeyDictionary[nn.Linear, tuple[Key, Tensor, Tensor | None]] = WeakKeyDictionary()


@contextmanager
def prepacked(net: nn.Module) -> Iterator[None]:
    """Every plain bf16 linear layer on the CPU computes from its laid-out weight while the block runs.

    Nothing compiled for training is used meanwhile: a compiler cannot look into a laid-out weight.
    """
    ours: list[tuple[nn.Linear, partial[Tensor]]] = []
    for group in _groups(net):
        shared = Shared(group)
        for place, module in enumerate(group):
            module.forward = partial(shared.forward, place)
            ours.append((module, module.forward))
    try:
        with uncompiled():
            yield
    finally:
        for module, forward in ours:
            if vars(module).get("forward") is forward:  # another block may have laid it out since
                del module.forward  # the class's own comes back


def _groups(net: nn.Module) -> Iterator[list[nn.Linear]]:
    """The layers that can be laid out, in the groups that share a product."""
    done: set[nn.Module] = set()
    for parent in net.modules():
        for names in TOGETHER:
            group = [child for name in names if _fits(child := getattr(parent, name, None))]
            if len(group) == len(names) and len({child.in_features for child in group}) == 1:
                done |= {*group}
                yield group
        for child in parent.children():
            if _fits(child) and child not in done:
                done.add(child)
                yield [child]


def _fits(module: object) -> TypeGuard[nn.Linear]:
    if type(module) is not nn.Linear or not torch.backends.mkldnn.is_available():
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype == torch.bfloat16


class Shared:
    """One product for layers that read the same tensor: the first one asked computes it, the others take their part.

    A layer that is given another tensor, or the same one again, has it computed anew, so the names above decide
    about speed alone.
    """

    def __init__(self, group: Sequence[nn.Linear]):
        self.group, (self.layout, self.bias) = group, _layout(group)
        self.sizes = [module.out_features for module in group]
        self.read: Tensor | None = None
        self.parts: dict[int, Tensor] = {}

    def forward(self, place: int, x: Tensor) -> Tensor:
        """What the layer at ``place`` of the group makes of x [..., D]."""
        if x.numel() > ROWS * x.shape[-1] or torch.is_grad_enabled():
            module = self.group[place]
            return nn.functional.linear(x, module.weight, module.bias)
        if x is self.read and place in self.parts:
            return self.parts.pop(place)
        out = torch.ops.mkldnn._linear_pointwise(x, self.layout, self.bias, "none", [], "")
        if len(self.group) == 1:
            return out
        self.read, self.parts = x, dict(enumerate(out.split(self.sizes, -1)))
        return self.parts.pop(place)


def _layout(group: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The weights of a group laid out as one, made again when one of them was written or replaced since, and biases."""
    tensors = [p for module in group for p in (module.weight, module.bias) if p is not None]
    state = tuple((p.data_ptr(), p._version) for p in tensors)
    known = _packed.get(group[0])
    if known is None or known[0] != state:
        weights = [module.weight.detach() for module in group]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        layout = torch.ops.mkldnn._reorder_linear_weight(whole, 1)
        known = (state, layout, _bias(group))
        _packed[group[0]] = known
    return known[1:]


def _bias(group: Sequence[nn.Linear]) -> Tensor | None:
    """The biases one after the other, zero where a layer has none."""
    if all(module.bias is None for module in group):
        return None
    none = [module.weight.new_zeros(module.out_features) for module in group]
    return torch.cat([zero if m.bias is None else m.bias.detach() for m, zero in zip(group, none, strict=True)])
