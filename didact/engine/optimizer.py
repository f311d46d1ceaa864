"""torch's own optimizers over fp32 masters of whatever is trainable."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from didact.engine.settings import Training
from didact.model.model import Model


class Optimizer:
    """AdamW, or Muon for hidden matrices and AdamW for the rest, over fp32 masters.

    A parameter in bf16 gets an fp32 master and an fp32 gradient, accumulated in backward as each gradient is made,
    so micro-batches add up without bf16's rounding and no bf16 gradient outlives its layer. A parameter that is fp32
    (as FSDP2's shards are) is its own master.

    Layer l of L learns at the rate of the one above times ``layer_decay`` (Howard and Ruder 2018, arXiv:1801.06146,
    section 3.2), and from the share (L - l) / L of ``unfreeze`` on (section 3.3): the last from the start, embeddings
    (l = 0) from ``unfreeze`` on. What is above the layers goes with no decay and from the start.
    """

    def __init__(self, model: Model, settings: Training):
        self.live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.master = {name: _master(p) for name, p in self.live.items()}
        depth, last = model.depths(), len(model.layers)
        self.thaws = {name: settings.unfreeze * max(last - depth[name], 0) / last for name in self.live}
        multiple = {id(p): settings.layer_decay ** (last + 1 - depth[name]) for name, p in self.master.items()}
        outer = {id(p) for p in model.outer()}
        muon = [
            self.master[name]
            for name, p in self.live.items()
            if settings.optimizer == "muon" and p.ndim == 2 and id(p) not in outer
        ]
        hidden = {id(p) for p in muon}
        rest = [p for p in self.master.values() if id(p) not in hidden]
        self.parts: list[tuple[torch.optim.Optimizer, float]] = []
        if rest:
            self.parts.append((_adamw(rest, settings, multiple), settings.learning_rate))
        if muon:
            kind = ShardedMuon if isinstance(muon[0], DTensor) else torch.optim.Muon
            groups = _by_multiple(muon, multiple)
            optimizer = kind(groups, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
            self.parts.append((optimizer, settings.muon_learning_rate))
        self._make_state()

    def clip(self, limit: float, done: float = 1.0) -> Tensor:
        """Norm of the whole gradient; scales it down to ``limit`` when that is positive and exceeded.

        With a share ``done`` of the steps behind it, forgets the gradient of what is still frozen, and clips the rest
        by its own norm. (What is returned does not jump when a layer thaws, which would look like a broken batch.)
        """
        whole = norm = self._norm()
        frozen = [name for name, at in self.thaws.items() if done < at]
        if frozen:
            for name in frozen:
                self.master[name].grad = None
            norm = self._norm()
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(list(self.master.values()), limit, norm)
        return whole

    def _norm(self) -> Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.master.values() if p.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update at ``scale`` times the peak learning rates, and each layer's own share of them."""
        for optimizer, rate in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale * group["multiple"]
            optimizer.step()
        self.publish()

    def zero(self) -> None:
        """Forgets the gradients."""
        for p in self.master.values():
            p.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Copies the masters into the model."""
        for name, p in self.live.items():
            if p is not self.master[name]:
                p.copy_(self.master[name])

    @torch.no_grad()
    def stuck(self, reach: float) -> float:
        """The share of bf16 weights that stay as they are where all steps add up to ``reach``; it is a sample.

        A weight of 2^e to 2^(e+1) changes in bf16 when its master has gone half of 2^(e-7); AdamW goes about the
        learning rate a step.
        """
        weights = [self.master[name].reshape(-1)[::16] for name, p in self.live.items() if p is not self.master[name]]
        halves = [torch.ldexp(w.ne(0).float(), w.frexp().exponent - 9) for w in weights]  # zero moves at once
        held = sum(int((half > reach).sum()) for half in halves)
        return held / max(sum(w.numel() for w in weights), 1)

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name: masters and the optimizers' state."""
        named = {f"model.{name}": p.detach() for name, p in self.master.items()}
        names = {id(p): name for name, p in self.master.items()}
        for optimizer, _ in self.parts:
            for p, state in optimizer.state.items():
                named |= {f"optimizer.{names[id(p)]}.{key}": value for key, value in state.items()}
        return named

    def _make_state(self) -> None:
        """Makes every state tensor exist from the start, so that saving and loading see the same names."""
        for p in self.master.values():
            p.grad = torch.zeros_like(p)
        for optimizer, _ in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.step()
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()
        self.zero()


class ShardedMuon(torch.optim.Muon):
    """torch's Muon where processes hold shards: each matrix is put together for a moment to be orthogonalised whole.

    On shards torch's own would run too, but its products in bf16 then round differently with every number of
    processes (1e-4 of the loss after eight steps, when measured).
    """

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                change = _orthogonal(update.full_tensor(), group["lr"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(distribute_tensor(change, p.device_mesh, p.placements, src_data_rank=None))


def _orthogonal(update: Tensor, rate: float) -> Tensor:
    """What torch's Muon, without momentum and decay, adds to a matrix whose gradient is ``update``."""
    change = nn.Parameter(torch.zeros_like(update))
    change.grad = update
    torch.optim.Muon([change], lr=rate, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    return change.detach()


def _master(p: nn.Parameter) -> nn.Parameter:
    if p.dtype == torch.float32:
        return p
    master = nn.Parameter(p.detach().float())

    def collect(live: Tensor) -> None:
        grad = live.grad
        assert grad is not None
        master.grad = grad.float() if master.grad is None else master.grad.add_(grad)
        live.grad = None

    p.register_post_accumulate_grad_hook(collect)
    return master


def _adamw(params: Sequence[nn.Parameter], settings: Training, multiple: Mapping[int, float]) -> torch.optim.Optimizer:
    decay = _by_multiple([p for p in params if p.ndim >= 2], multiple)
    plain = _by_multiple([p for p in params if p.ndim < 2], multiple)
    groups = [
        *({**group, "weight_decay": settings.weight_decay} for group in decay),
        *({**group, "weight_decay": 0.0} for group in plain),  # norms and biases are not shrunk
    ]
    fused = params[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=fused,
    )


def _by_multiple(params: Sequence[nn.Parameter], multiple: Mapping[int, float]) -> list[dict[str, Any]]:
    """A group for each multiple of the learning rate; ``multiple`` goes by the identity of a parameter."""
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for p in params:
        groups[multiple[id(p)]].append(p)
    return [{"params": group, "multiple": times} for times, group in groups.items()]
