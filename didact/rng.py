"""Randomness as a pure function of (seed, step, row): the same on any number of processes, and after any resume."""

from dataclasses import dataclass

import torch
from torch import Tensor

_MIX = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits, as in SplitMix64 (Steele et al. 2014)
_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """One 63-bit seed out of several integers, by SplitMix64's finaliser over their running sum."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK) + _MIX) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class Rng:
    """The randomness of one step; every row draws from a generator keyed by its own number.

    ``progress`` is the share of the stage that is done, from 0 to 1: what a schedule inside an objective depends on.
    """

    seed: int
    step: int
    progress: float = 0.0

    def uniform(self, row: Tensor, size: int, purpose: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), [B, size], for rows numbered ``row`` [B]; ``purpose`` separates draws."""
        return torch.stack([torch.rand(size, generator=self.generator(number, purpose)) for number in row.tolist()]).to(
            row.device
        )  # [B, size]

    def generator(self, row: int, purpose: int = 0) -> torch.Generator:
        """A CPU generator for one row."""
        return torch.Generator().manual_seed(mix(self.seed, self.step, row, purpose))
