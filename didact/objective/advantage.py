"""What each action of an answer was worth: pure functions from rewards to advantages, and estimators of KL.

Groups are [P, G]: G answers to each of P prompts. Actions are [N, L]: the tokens that N answers chose, in their order,
``mask`` true where there is one; what is padded is zero in every result.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# --- answers of one prompt beside each other, [P, G] ----------------------------------------------------------------


def centred(score: Tensor) -> Tensor:
    """r - mean of the group (Dr. GRPO: Liu et al. 2025, arXiv:2503.20783, section 3.2)."""
    return score - score.mean(1, keepdim=True)


def standardised(score: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-4), with Bessel's correction (GRPO: Shao et al. 2024, arXiv:2402.03300, 4.1.2)."""
    return centred(score) / (score.std(1, keepdim=True) + 1e-4 if score.shape[1] > 1 else 1.0)


def others(score: Tensor) -> Tensor:
    """r - mean of the other answers = G / (G - 1) (r - mean) (RLOO: Ahmadian et al. 2024, arXiv:2402.14740, eq. 7)."""
    count = score.shape[1]
    return centred(score) * (count / max(count - 1, 1))


def plain(score: Tensor) -> Tensor:
    """The reward itself: no baseline."""
    return score


def best(score: Tensor) -> Tensor:
    """1 for the best answers of a group, 0 for the others, and for all where none is better: best-of-n fine-tuning."""
    return ((score >= score.amax(1, keepdim=True) - 1e-8) & informative(score)[:, None]).to(score)


def informative(score: Tensor) -> Tensor:
    """Whether the answers of a group are of different worth, bool [P]: equal ones say nothing of each other."""
    return score.amax(1) - score.amin(1) > 1e-6


def overlong(length: Tensor, longest: int, buffer: int) -> Tensor:
    """0 up to ``longest - buffer`` tokens, then down to -1 at ``longest`` (DAPO: Yu et al. 2025, arXiv:2503.14476, 13).

    ``length`` of any shape; no ``buffer``, no penalty.
    """
    return ((longest - buffer - length) / buffer).clamp(-1, 0) if buffer else torch.zeros_like(length)


# --- along one answer, [N, L] ---------------------------------------------------------------------------------------


def returns(reward: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """The sum of what is still to come, sum_{s >= t} gamma^(s - t) r_s."""
    return gae(reward, torch.zeros_like(reward), mask, gamma, 1.0)


def gae(reward: Tensor, value: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2015, arXiv:1506.02438).

    After its last action an answer is over, and worth nothing more.
    """
    value = value * mask
    after = torch.zeros_like(value[:, 0])  # A_{t+1}
    found = torch.zeros_like(value)
    ahead = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)  # V_{t+1}
    delta = (reward + gamma * ahead - value) * mask
    for t in reversed(range(value.shape[1])):
        after = delta[:, t] + gamma * lam * after * mask[:, t]
        found[:, t] = after
    return found


def whiten(x: Tensor, mask: Tensor, keep_mean: bool = False, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(population's variance + eps), over all that ``mask`` counts; ``keep_mean`` adds it back."""
    count = mask.sum().clamp(min=1)
    mean = (x * mask).sum() / count
    away = (x - mean) * mask
    found = away * (away.square().sum() / count + eps).rsqrt()
    return (found + mean) * mask if keep_mean else found


def explained_variance(value: Tensor, gain: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 for a critic that knew the returns, 0 for one that knew nothing of them."""
    spread = [float(one[mask].double().var(correction=0)) for one in (gain - value, gain)]
    return 1 - spread[0] / spread[1] if spread[1] > 1e-12 else 0.0


# --- how far two policies are apart, from the log-probabilities of what the first one did ---------------------------


def k1(log_q: Tensor, log_p: Tensor) -> Tensor:
    """log q - log p: unbiased for KL(q || p); as a loss on its own samples its gradient is zero on average."""
    return log_q - log_p


def k2(log_q: Tensor, log_p: Tensor) -> Tensor:
    """(log q - log p)^2 / 2: as a loss its gradient is that of KL(q || p)."""
    return (log_q - log_p).square() / 2


def k3(log_q: Tensor, log_p: Tensor) -> Tensor:
    """r - 1 - log r with r = p / q: unbiased for KL(q || p), never negative; as a loss its gradient is KL(p || q)'s."""
    return torch.expm1(log_p - log_q) - (log_p - log_q)


def k3_k2(log_q: Tensor, log_p: Tensor) -> Tensor:
    """The value of ``k3`` with the gradient of ``k2``."""
    square = k2(log_q, log_p)
    return k3(log_q, log_p).detach() + square - square.detach()


Estimator = Callable[[Tensor, Tensor], Tensor]
ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3, "k3_k2": k3_k2}
Baseline = Callable[[Tensor], Tensor]
BASELINES: dict[str, Baseline] = {"group": standardised, "mean": centred, "others": others, "best": best, "none": plain}
