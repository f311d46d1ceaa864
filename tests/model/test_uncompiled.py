import torch
from torch import nn

from didact.model.uncompiled import uncompiled


class Shift(nn.Module):
    def forward(self, x):
        return x + 1


def test_overlapping_users_leave_things_as_they_were():
    """As a server's lane does, which is open while a training begins and ends."""

    def twice(graph, _):
        return lambda *given: tuple(2 * out for out in graph(*given))

    layer, x = Shift(), torch.ones(1, 2)
    layer.compile(backend=twice)
    plain = x + 1
    assert torch.allclose(layer(x), 2 * plain)
    first, second = uncompiled(), uncompiled()
    first.__enter__()
    assert torch.allclose(layer(x), plain)
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.allclose(layer(x), plain)
    second.__exit__(None, None, None)
    assert torch.allclose(layer(x), 2 * plain)
