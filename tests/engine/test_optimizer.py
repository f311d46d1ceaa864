import pytest
import torch

from didact.engine.mesh import Mesh
from didact.engine.optimizer import Optimizer
from didact.engine.settings import Training
from didact.engine.step import Task, take_step
from didact.objective.tokens import Causal
from didact.rng import Rng
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


def test_muon_takes_hidden_matrices_only():
    model = toy_model()
    optimizer = Optimizer(model, Training(optimizer="muon"), model.outer())
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
    optimizer = Optimizer(model, Training(optimizer=kind, learning_rate=1e-2, weight_decay=0.1), model.outer())
    fresh = optimizer.tensors()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), "making the state moved the parameters"
    gradients(model)
    optimizer.step(1.0)
    after = optimizer.tensors()
    assert fresh.keys() == after.keys()
    assert any(name.startswith("optimizer.") for name in fresh)
