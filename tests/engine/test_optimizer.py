import re

import pytest
import torch

from didact.engine.mesh import Mesh
from didact.engine.optimizer import Optimizer
from didact.engine.settings import Training
from didact.engine.step import Task, take_step
from didact.model import lora
from didact.model.model import Model
from didact.model.settings import Lora
from didact.objective.tokens import Causal
from didact.rng import Rng
from tests.model.folders import tiny
from tests.toy import toy_model, toy_stream

MESH = Mesh(torch.device("cpu"))


def gradients(model, micro=4):
    take_step(model, [Task("t", Causal(), toy_stream().start(0))], MESH, Rng(0, 0), micro)


def test_adamw_equals_torch_by_hand():
    settings = Training(learning_rate=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    model, twin = toy_model(), toy_model()
    optimizer = Optimizer(model, settings)
    by_hand = torch.optim.AdamW(
        [{"params": [p], "weight_decay": 0.1 if p.ndim >= 2 else 0.0} for p in twin.parameters()],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    for _ in range(3):
        gradients(model)
        optimizer.clip(1.0)
        optimizer.step(1.0)
        optimizer.zero()
        gradients(twin)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        by_hand.step()
        by_hand.zero_grad()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def rates(depth: str) -> int:
    """The layer of a parameter's name: 0 for the (tied) table, 3 for the final norm of two layers."""
    return 0 if "embed" in depth else 1 + int(depth.split("layers.")[1][0]) if "layers." in depth else 3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_layer_decay_is_a_learning_rate_a_layer(kind):
    """Twin: torch's own optimizers with a group a layer, the rate of each 0.4 of the one above."""
    settings = Training(learning_rate=1e-2, layer_decay=0.4, optimizer=kind, weight_decay=0.1, grad_clip=0)
    model, twin = toy_model(), toy_model()
    optimizer = Optimizer(model, settings)
    outer = {id(p) for p in twin.outer()}
    by_hand = []
    for name, p in twin.named_parameters():
        times = 0.4 ** (3 - rates(name))
        if kind == "muon" and p.ndim == 2 and id(p) not in outer:
            by_hand.append(torch.optim.Muon([p], lr=0.02 * times, weight_decay=0.1))
        else:
            decay = 0.1 if p.ndim >= 2 else 0.0
            by_hand.append(torch.optim.AdamW([p], lr=1e-2 * times, betas=(0.9, 0.95), weight_decay=decay))
    for _ in range(1 if kind == "muon" else 3):  # whose products in bf16 magnify what a second gradient differs by
        gradients(model)
        optimizer.step(1.0)
        optimizer.zero()
        gradients(twin)
        for each in by_hand:
            each.step()
            each.zero_grad()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_layers_thaw_from_the_top():
    """Of 10 steps the first half unfreezes: layer 2 and the norm at once, layer 1 at a quarter, the table at half."""
    settings = Training(learning_rate=1e-2, unfreeze=0.5, grad_clip=1.0)
    model, twin = toy_model(), toy_model()
    optimizer = Optimizer(model, settings)
    by_hand = torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    begins = {0: 5, 1: 3, 2: 0, 3: 0}  # the first step of 10 that is not before the share 0.5, 0.25, 0
    for step in range(10):
        gradients(model)
        norm = optimizer.clip(1.0, step / 10)
        optimizer.step(1.0)
        optimizer.zero()
        gradients(twin)
        torch.testing.assert_close(norm, torch.nn.utils.get_total_norm([p.grad for p in twin.parameters()]))
        for name, p in twin.named_parameters():
            p.grad = p.grad if step >= begins[rates(name)] else None
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        by_hand.step()
        by_hand.zero_grad()
        fresh = dict(toy_model().named_parameters())
        for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
            assert torch.equal(p, fresh[name]) == (step < begins[rates(name)]), (step, name)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_every_parameter_has_its_depth(architecture):
    """An untied head, and tables of positions, too; a LoRA stands where its layer does."""
    model = Model(tiny(architecture))
    lora.add(model.net, Lora(rank=2))
    for name, depth in model.depths().items():
        inside = re.search(r"(?:layers|h)\.(\d+)\.", name)
        wanted = int(inside[1]) + 1 if inside else 0 if re.search(r"embed|wte|wpe", name) else 3
        assert depth == wanted, name


def test_bf16_gradients_add_up_in_fp32():
    """Micro-batches of bf16 give the sum of their own gradients, not that sum rounded to bf16 each time."""
    model = toy_model(dtype=torch.bfloat16)
    optimizer = Optimizer(model, Training())
    gradients(model, micro=1)
    assert all(p.grad is None for p in model.parameters()), "bf16 gradients stay behind"
    grads = [p.grad for p in optimizer.master.values()]
    assert all(g is not None and g.dtype == torch.float32 for g in grads)
    assert any((g != g.bfloat16().float()).any() for g in grads)


def test_masters_keep_what_bf16_cannot():
    model = toy_model(dtype=torch.bfloat16)
    optimizer = Optimizer(model, Training(learning_rate=1e-6))
    before = {name: p.clone() for name, p in optimizer.master.items()}
    gradients(model)
    optimizer.step(1.0)
    assert all((before[name] != p).any() for name, p in optimizer.master.items())
    for name, p in model.named_parameters():
        assert torch.equal(p, optimizer.master[name].bfloat16())


@pytest.mark.parametrize("reach", [1e-6, 1e-4, 3e-4, 1e-2])
def test_stuck_are_the_weights_that_bf16_rounds_back(reach):
    model = toy_model(dtype=torch.bfloat16)
    with torch.no_grad():
        next(model.parameters())[::2] = 0  # as a LoRA's B begins
    weights = torch.cat([p.detach().view(-1)[::16] for p in model.parameters()]).float().abs()
    back = ((weights + reach).bfloat16().float() == weights).float().mean().item()
    assert Optimizer(model, Training()).stuck(reach) == pytest.approx(back, abs=0.01)
    assert Optimizer(toy_model(), Training()).stuck(reach) == 0  # fp32 weights are their own masters


def test_muon_takes_hidden_matrices_only():
    model = toy_model()
    optimizer = Optimizer(model, Training(optimizer="muon"))
    muon = next(o for o, _ in optimizer.parts if isinstance(o, torch.optim.Muon))
    names = {id(p): name for name, p in optimizer.master.items()}
    chosen = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert chosen
    assert all("layers" in name and "norm" not in name for name in chosen)
    rest = set(optimizer.master) - chosen
    assert any("embed_tokens" in name for name in rest)
    assert all("embed" in name or "norm" in name for name in rest)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_exists_from_the_start_and_is_neutral(kind):
    model, twin = toy_model(), toy_model()
    optimizer = Optimizer(model, Training(optimizer=kind, learning_rate=1e-2, weight_decay=0.1))
    fresh = optimizer.tensors()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), "making the state moved the parameters"
    gradients(model)
    optimizer.step(1.0)
    after = optimizer.tensors()
    assert fresh.keys() == after.keys()
    assert any(name.startswith("optimizer.") for name in fresh)
