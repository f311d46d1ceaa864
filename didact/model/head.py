"""The head of a language model where there is weight, in chunks: full logits never exist.

The gradient is made in the forward pass, where the chunk's probabilities already stand in the cache, as in the
memory-saving losses of Liger (arXiv:2410.10989) and Cut Cross-Entropy (arXiv:2411.09009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Positions of a chunk: enough for the products to run at full rate, few enough for 100 MB of logits.
CHUNK = 512
# Positions whose probabilities are made at once on a CPU: 16 x 50k numbers stay in the cache.
CACHED = 16
# Rows of the weight whose gradient is added at once on a CPU: the product is still in the cache when it is added.
TILE = 4096
LOG2E = math.log2(math.e)


def logprob(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    where: Tensor,
    softcap: float | None = None,
    chunk: int = CHUNK,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    never: int | None = None,
) -> Tensor:
    """``log softmax(f(hidden @ weight.T + bias) / temperature)[target]`` where ``where`` is not zero, else 0.

    hidden [..., D], weight [V, D], bias [V], target and where [...] -> [...] in fp32 (fp64 for fp64 input).
    ``f(x) = softcap * tanh(x / softcap)`` (Gemma 2, arXiv:2408.00118, section 2). With ``smoothing`` e it is
    ``(1 - e) log p(target) + e mean_v log p(v)``; ``z_loss`` c takes ``c log^2 Z`` off. The id ``never``
    has no chance. Fastest when the loss is ``-(logprob * where).sum()`` times any constant; exact for every loss.
    """
    return _picked(
        hidden, weight, bias, target, None, where, Head(softcap, temperature, chunk, smoothing, z_loss, never)
    )


def closeness(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    log_p: Tensor,
    where: Tensor,
    softcap: float | None = None,
    chunk: int = CHUNK,
    temperature: float = 1.0,
) -> Tensor:
    """``-KL(p || q)`` of a teacher's p from the head's q where ``where`` is not zero, else 0; as fast as ``logprob``.

    ``target`` [..., K] are p's likeliest tokens and ``log_p`` their log-probabilities. All other tokens count as one
    that p and q give what is left: exact for K = V, else a lower bound that is 0 only where q agrees on all K.
    """
    return _picked(hidden, weight, bias, target, log_p, where, Head(softcap, temperature, chunk))


def _picked(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    log_p: Tensor | None,
    where: Tensor,
    head: Head,
) -> Tensor:
    """The head's score of the positions where ``where`` is not zero, 0 elsewhere."""
    index = where.flatten().nonzero().squeeze(1)  # [N]
    picked = hidden.flatten(0, -2)[index]  # [N, D]
    goal, guess = target.flatten(0, where.dim() - 1)[index], where.flatten()[index]
    wide = torch.promote_types(hidden.dtype, torch.float32)
    log_p = None if log_p is None else log_p.flatten(0, where.dim() - 1)[index].to(wide)  # [N, K]
    learn = torch.is_grad_enabled()
    learns = (
        learn and hidden.requires_grad,
        learn and (weight.requires_grad or (bias is not None and bias.requires_grad)),
    )
    with torch.autocast(hidden.device.type, enabled=False):
        found = Logprob.apply(picked, weight.to(hidden.dtype), bias, goal, log_p, guess.to(wide), head, learns)
    return torch.zeros(where.numel(), dtype=wide, device=hidden.device).index_copy(0, index, found).view(where.shape)


@dataclass(frozen=True)
class Head:
    """How logits become log-probabilities, and how many positions at a time."""

    softcap: float | None
    temperature: float
    chunk: int
    smoothing: float = 0.0
    z_loss: float = 0.0
    never: int | None = None

    def score(
        self, h: Tensor, weight: Tensor, bias: Tensor | None, goal: Tensor, log_p: Tensor | None, slope: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [N] of the goals (or closeness), and its gradient for the logits [N, V] when ``slope``."""
        logits = F.linear(h, weight, None if bias is None else bias.to(h.dtype))  # [N, V]
        rows = CACHED if h.device.type == "cpu" else max(len(h), 1)
        cuts = [slice(a, a + rows) for a in range(0, max(len(h), 1), rows)]
        parts = [self.part(logits[n], goal[n], None if log_p is None else log_p[n], slope) for n in cuts]
        return torch.cat(parts), logits

    def part(self, logits: Tensor, goal: Tensor, log_p: Tensor | None, slope: bool) -> Tensor:
        """The score of a few rows; their logits become ``d score / d logits`` in place."""
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        capped = None
        if self.softcap is not None:
            capped = torch.tanh(x / self.softcap)
            x = capped * self.softcap
        if self.temperature != 1.0:
            x = x / self.temperature
        if self.never is not None:
            x[:, self.never] = -math.inf  # and so is its gradient: zero
        found, g = self.likelihood(x, goal, slope) if log_p is None else self.closeness(x, goal, log_p, slope)
        if slope:
            if capped is not None:
                g *= 1 - capped * capped
            if self.temperature != 1.0:
                g /= self.temperature
            logits.copy_(g)
        return found.squeeze(1)

    def likelihood(self, x: Tensor, goal: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """log p(goal) [n, 1] and its gradient for x [n, V]."""
        top = x.amax(-1, keepdim=True)
        at_goal = x.gather(1, goal[:, None]) - top
        p = torch.sub(x, top).mul_(LOG2E).exp2_()  # exp2 is three times as fast as exp
        total = p.sum(-1, keepdim=True)
        found, pull = at_goal - total.log(), 1.0
        if self.z_loss or self.smoothing:
            log_z = total.log() + top
            even = x.mean(-1, keepdim=True) - log_z if self.smoothing else 0.0  # [n, 1]: mean_v log p(v)
            found = (1 - self.smoothing) * found + self.smoothing * even - self.z_loss * log_z.square()
            pull = 1 + 2 * self.z_loss * log_z
        if slope:
            p.mul_(-pull / total)  # [n, V]: onehot - p
            p.scatter_add_(1, goal[:, None], torch.full_like(total, 1 - self.smoothing))
            if self.smoothing:
                p += self.smoothing / p.shape[1]
        return found, p

    def closeness(self, x: Tensor, goal: Tensor, log_p: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """-KL(p || q) [n, 1] and its gradient for x [n, V], where p is ``exp(log_p)`` [n, K] at ``goal`` [n, K]."""
        top = x.amax(-1, keepdim=True)
        q = torch.sub(x, top).mul_(LOG2E).exp2_()
        named = q.gather(1, goal)
        tail = q.scatter_(1, goal, 0).sum(-1, keepdim=True)  # of all other tokens, without cancellation
        total = tail + named.sum(-1, keepdim=True)
        p = log_p.exp()
        rest = (1 - p.sum(-1, keepdim=True)).clamp(min=0) if goal.shape[1] < x.shape[1] else torch.zeros_like(tail)
        tail = tail.clamp(min=torch.finfo(x.dtype).tiny)
        log_q = x.gather(1, goal) - top - total.log()
        found = (p * (log_q - log_p)).sum(-1, keepdim=True)
        found = found + rest * (tail.log() - total.log()) - torch.special.xlogy(rest, rest)
        if slope:
            q.mul_(rest / tail - 1 / total)  # the tail's p is spread as q is
            q.scatter_(1, goal, p - named / total)
        return found, q


class Logprob(torch.autograd.Function):
    """log softmax(h W^T)[goal], whose gradient is ``(onehot - p) W`` for h and ``(onehot - p)^T h`` for W.

    The first is a row of its own and scales by the upstream gradient exactly. The second sums over rows, so the
    forward pass guesses the upstream gradient up to a constant; a wrong guess is noticed and costs a second pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        goal: Tensor,
        log_p: Tensor | None,
        guess: Tensor,
        head: Head,
        learns: tuple[bool, bool],
    ) -> Tensor:
        """h [N, D], weight [V, D], bias [V], goal and guess [N] -> [N]; ``learns``: which of h and W are trained.

        With ``log_p`` [N, K], and goal [N, K], it is the closeness.
        """
        found = torch.zeros(len(h), dtype=guess.dtype, device=h.device)
        dh = torch.empty_like(h) if learns[0] else None
        sums = Sums(weight, bias, guess.dtype) if learns[1] else None
        for a in range(0, len(h), head.chunk):
            n = slice(a, a + head.chunk)
            named = None if log_p is None else log_p[n]
            found[n], slope = head.score(h[n], weight, bias, goal[n], named, any(learns))
            if dh is not None:
                torch.mm(slope, weight, out=dh[n])
            if sums is not None:
                sums.add(slope, h[n], guess[n])
        ctx.save_for_backward(h, weight, bias, goal, log_p, guess, dh, *(sums.tensors() if sums else (None, None)))
        ctx.head, ctx.learns = head, learns
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        """The stored gradients scaled by the upstream one [N]."""
        (up,) = grad_outputs
        h, weight, bias, goal, log_p, guess, dh, dw, db = ctx.saved_tensors
        if dh is not None:
            dh = (dh * up[:, None]).to(h.dtype)  # scaled in fp32
        if dw is not None:
            ratio = constant(up, guess)
            if ratio is None:
                sums = Sums(weight, bias, guess.dtype)
                for a in range(0, len(h), ctx.head.chunk):
                    n = slice(a, a + ctx.head.chunk)
                    named = None if log_p is None else log_p[n]
                    sums.add(ctx.head.score(h[n], weight, bias, goal[n], named, True)[1], h[n], up[n])
                dw, db = sums.tensors()
                ratio = torch.ones_like(up[:1]).squeeze(0)
            dw = torch.mul(dw, ratio, out=torch.empty_like(weight))
            db = None if db is None else (db * ratio).to(bias.dtype)
        return dh, dw, db, None, None, None, None, None


class Sums:
    """The gradient of weight [V, D] and bias [V], added up chunk by chunk in fp32."""

    def __init__(self, weight: Tensor, bias: Tensor | None, wide: torch.dtype):
        self.dw = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        self.db = None if bias is None else torch.zeros(bias.shape, dtype=wide, device=bias.device)

    def add(self, slope: Tensor, h: Tensor, up: Tensor) -> None:
        """slope [N, V], h [N, D] and the upstream gradient [N]."""
        h = (h * up[:, None]).to(h.dtype)
        rows = TILE if h.device.type == "cpu" else len(self.dw)
        for dw, part in zip(self.dw.split(rows), slope.split(rows, 1), strict=True):
            dw += part.T @ h
        if self.db is not None:
            self.db += up @ slope.to(up.dtype)

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Both sums."""
        return self.dw, self.db


def constant(up: Tensor, guess: Tensor) -> Tensor | None:
    """The constant c of ``up = c * guess``, None where there is none; a few rounding errors are no difference."""
    if len(up) == 0:
        return up.new_ones(())
    at = guess.abs().argmax()
    ratio = up[at] / guess[at]
    expected = ratio * guess
    close = (up - expected).abs() <= 4 * torch.finfo(up.dtype).eps * expected.abs()
    return ratio if bool(close.all()) else None
