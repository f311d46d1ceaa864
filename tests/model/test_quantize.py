"""Weights of few bits: near what they were, smaller, and read by torch's kernels as we wrote them."""

import pytest
import torch
from torch import nn

from didact.errors import UsageProblem
from didact.model.quantize import GROUP, Few, quantize
from tests.model.folders import logits, tiny


def written_out(few):
    """The weight that a layer computes with, by its products with the unit vectors."""
    width = few.get_buffer("stored").shape[1] * (2 if few.bits == "int4" else 1)
    return (few(torch.eye(width)) - (0 if few.bias is None else few.bias)).T


@pytest.mark.parametrize(("bits", "levels"), [("int8", 255), ("int4", 16)])
@pytest.mark.parametrize("rows", [1, 16, 40])
def test_a_layer_is_near_what_it_was(bits, levels, rows):
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    few, x = Few(linear, bits), torch.randn(rows, 64)
    span = linear.weight.abs().amax() * 2 / (levels - 1)
    assert (written_out(few) - linear.weight).abs().max() < span
    error = (few(x) - linear(x)).norm() / linear(x).norm()
    assert error < (0.02 if bits == "int8" else 0.15)
    assert few(x.view(1, rows, 64)).shape == (1, rows, 32)


def test_few_and_many_rows_agree():
    torch.manual_seed(0)
    few, x = Few(nn.Linear(64, 32, bias=False), "int8"), torch.randn(40, 64)
    assert torch.allclose(few(x), torch.cat([few(row[None]) for row in x]), atol=0.02)


def test_every_weight_of_a_group_of_equals_is_exact():
    linear = nn.Linear(GROUP * 2, 16, bias=False)
    linear.weight.data.fill_(0.5)
    assert (written_out(Few(linear, "int4")) == 0.5).all()


@pytest.mark.parametrize(("bits", "share", "near"), [("int8", 0.53, 0.1), ("int4", 0.33, 1.0)])
def test_a_model_gets_smaller_and_says_much_the_same(bits, share, near):
    net = tiny(dtype=torch.bfloat16, hidden_size=64, intermediate_size=96)
    net.set_attn_implementation("eager")
    before = logits(net)
    sizes = quantize(net, bits, net.get_output_embeddings())
    assert sizes[1] / sizes[0] < share
    assert isinstance(net.model.layers[0].mlp.up_proj, Few)
    assert type(net.get_output_embeddings()) is nn.Linear
    assert (logits(net) - before).abs().mean() < near * before.abs().mean()


def test_a_model_without_fitting_layers():
    with pytest.raises(UsageProblem, match="no linear layer"):
        quantize(nn.Sequential(nn.Linear(7, 5)), "int8", None)
