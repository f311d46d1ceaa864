"""From logits to a token: penalties, truncation, one uniform number a token."""

import torch
from torch import Tensor

from didact.rng import mix
from didact.rollout.settings import Sampling

NUCLEUS = 1024  # candidates looked at first for top_p; the whole vocabulary only when they hold too little


def choose(logits: Tensor, sampling: Sampling, seen: Tensor | None, uniform: float) -> int:
    """One token from ``logits`` fp32 [V]; ``seen`` are the ids the repetition penalty applies to."""
    if sampling.repetition_penalty != 1 and seen is not None:
        logits = penalised(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    prob, token = candidates((logits / sampling.temperature).softmax(-1), sampling)
    so_far = prob.cumsum(0)
    place = torch.searchsorted(so_far, uniform * so_far[-1:], right=True)
    last = torch.searchsorted(so_far, so_far[-1:])  # rounding up to the whole sum must not reach tokens of no chance
    return int(token[torch.minimum(place, last)])


def candidates(prob: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of the tokens that may be drawn; likeliest first if anything is cut off."""
    if sampling.top_k == 0 and sampling.top_p >= 1 and sampling.min_p == 0:
        return prob, torch.arange(len(prob), device=prob.device)
    count = min(sampling.top_k or NUCLEUS, len(prob))
    top, token = prob.topk(count)
    if sampling.top_k == 0 and float(top.sum()) < sampling.top_p:
        top, token = prob.sort(descending=True)
    if sampling.top_k:
        top = top / top.sum()  # top_p is a share of what top_k has left
    before = top.cumsum(0) - top  # a token stays if those likelier hold less than top_p
    whole = sampling.top_p >= 1  # rounded sums reach 1 before the last token does
    keep = ((before < sampling.top_p) | whole) & (top >= sampling.min_p * top[0])
    return top[keep], token[keep]


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divides positive and multiplies negative logits of seen tokens (Keskar et al. 2019, arXiv:1909.05858, 4.1)."""
    picked = logits[seen]
    return logits.index_put((seen,), torch.where(picked > 0, picked / penalty, picked * penalty))


def uniform(seed: int, place: int) -> float:
    """The random number of one token of one completion: independent of what is sampled beside it."""
    return mix(seed, place) / (1 << 63)
