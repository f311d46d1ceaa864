"""Goldfish loss: a text is learned with holes that are always the same, so it cannot be recited (Hans et al. 2024).

arXiv:2406.10209, section 3.1: target i is left out when a hash of the tokens before it falls below 1/k. The hash sees
exactly the ``context`` tokens before i, in their order, so a passage has the same holes wherever it is copied to.
"""

import torch
from torch import Tensor

PRIME = (1 << 31) - 1  # all arithmetic is modulo this, so that products fit into 63 bits
BASE = 0x2545F491
MIXERS = (0x3C6EF372, 0x1B873593, 0x51ED270B)


def kept(token: Tensor, doc: Tensor, k: int, context: int) -> Tensor:
    """Whether each token is learned when it is the target: bool [B, T], false for one of k.

    ``token`` and ``doc`` [B, T]. The first ``context`` tokens of a document have too little before them to be told
    from others and are kept.
    """
    whole = torch.zeros_like(doc, dtype=torch.bool)
    whole[:, context:] = doc[:, context:] == doc[:, :-context]
    return ~whole | (spread(rolled(token, context)) >= PRIME // k)


def rolled(token: Tensor, context: int) -> Tensor:
    """Rabin-Karp hash of the ``context`` tokens before each one, ``sum (x[i - j] + 1) BASE^(j - 1)``, int64 [B, T]."""
    found = torch.zeros_like(token)
    for back in range(context, 0, -1):
        found = (found * BASE + torch.roll(token, back, dims=1) + 1) % PRIME
    return found


def spread(found: Tensor) -> Tensor:
    """The hash with neighbouring values far apart: a sum of small numbers is small itself."""
    for mixer in MIXERS:
        found = (found + 1) * mixer % PRIME
        found = found ^ (found >> 15)
    return found
