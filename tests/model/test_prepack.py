import pytest
import torch
from torch import nn

from didact.model import prepack
from didact.model.prepack import ROWS, prepacked

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("rows", [1, 3, 16, ROWS, ROWS + 1])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_same_numbers_come_out(rows, bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 160, bias), nn.SiLU(), nn.Linear(160, 48, bias)).bfloat16()
    x = torch.randn(rows, 96).bfloat16()
    plain = net(x)
    with prepacked(net):
        assert "forward" in vars(net[0]), "nothing was packed"
        torch.testing.assert_close(net(x), plain, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(net(x[:, None]), plain[:, None], rtol=1e-2, atol=1e-2)
    assert "forward" not in vars(net[0])


@needs_onednn
def test_a_changed_weight_is_laid_out_again():
    net = nn.Sequential(nn.Linear(32, 32, False)).bfloat16()
    x = torch.randn(1, 32).bfloat16()
    with torch.no_grad(), prepacked(net):
        before = net(x)
    with torch.no_grad():
        net[0].weight.mul_(2)
    with torch.no_grad(), prepacked(net):
        torch.testing.assert_close(net(x), 2 * before, rtol=1e-2, atol=1e-2)


def test_other_types_and_layers_are_left_alone():
    net = nn.Sequential(nn.Linear(8, 8), nn.Embedding(4, 8))
    with prepacked(net):
        assert "forward" not in vars(net[0])


def test_an_error_inside_gives_the_layers_back():
    net = nn.Sequential(nn.Linear(8, 8).bfloat16())
    with pytest.raises(RuntimeError), prepacked(net):
        raise RuntimeError
    assert "forward" not in vars(net[0])


@needs_onednn
def test_training_beside_a_suspended_generation_keeps_its_gradients():
    net = nn.Sequential(nn.Linear(8, 8, False)).bfloat16()
    x = torch.randn(2, 8).bfloat16()
    with prepacked(net):
        net(x).float().sum().backward()
    assert net[0].weight.grad is not None
    torch.testing.assert_close(net[0].weight.grad[0], x.sum(0), rtol=2e-2, atol=2e-2)


class Siblings(nn.Module):
    """Three layers under names that mean one input, one of them with a bias."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(96, 64, False), nn.Linear(96, 32), nn.Linear(96, 32, False)


@needs_onednn
@torch.no_grad()
def test_layers_that_read_the_same_become_one_product(monkeypatch):
    torch.manual_seed(0)
    net = Siblings().bfloat16()
    x = torch.randn(3, 1, 96).bfloat16()
    plain = [layer(x) for layer in net.children()]
    calls, real = [], prepack.torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(prepack.torch.ops.mkldnn, "_linear_pointwise", lambda *a: calls.append(a) or real(*a))
    with prepacked(net):
        for layer, expected in zip(net.children(), plain, strict=True):
            torch.testing.assert_close(layer(x), expected, rtol=1e-2, atol=1e-2)
    assert len(calls) == 1
    assert not any("forward" in vars(layer) for layer in net.children())


@needs_onednn
@torch.no_grad()
def test_siblings_that_read_different_tensors_are_not_mixed_up():
    torch.manual_seed(0)
    net = Siblings().bfloat16()
    x, other = torch.randn(2, 96).bfloat16(), torch.randn(2, 96).bfloat16()
    plain = {(name, id(y)): layer(y) for name, layer in net.named_children() for y in (x, other)}
    with prepacked(net):
        for name, y in [("q_proj", x), ("k_proj", other), ("v_proj", x), ("q_proj", x), ("q_proj", x), ("v_proj", x)]:
            torch.testing.assert_close(getattr(net, name)(y), plain[name, id(y)], rtol=1e-2, atol=1e-2)
        net.q_proj(x)
        x.mul_(2)
        torch.testing.assert_close(net.q_proj(x), 2 * plain["q_proj", id(x)], rtol=1e-2, atol=1e-2)


@needs_onednn
@torch.no_grad()
def test_two_blocks_may_overlap():
    """As a lane that nobody needs is put away while another has begun."""
    net, x = nn.Sequential(nn.Linear(96, 160)).bfloat16(), torch.randn(3, 96).bfloat16()
    first, second = prepacked(net), prepacked(net)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert "forward" in vars(net[0])
    second.__exit__(None, None, None)
    assert "forward" not in vars(net[0])
    assert net(x).shape == (3, 160)


@needs_onednn
def test_what_was_compiled_to_train_samples_uncompiled():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(nn.Linear(96, 160), nn.SiLU(), nn.Linear(160, 48))).bfloat16()
    x = torch.randn(3, 96).bfloat16()
    with torch.inference_mode():
        plain = net(x)
        net[0].compile(dynamic=True)
        with prepacked(net):
            torch.testing.assert_close(net(x), plain, rtol=1e-2, atol=1e-2)
