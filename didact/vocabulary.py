"""What an objective may know of the tokens it learns: how many there are, the mask, the special ones, word starts."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Facts about token ids.

    ``size`` counts ids, ``mask`` is the id of the mask token (-1 where there is none), ``special`` bool [V] is true for
    ids that stand for no text (never masked, never drawn in a mask's place), ``begins`` bool [V] for those that may
    begin a word: a run of others goes on with the word before it.
    """

    size: int
    mask: int
    special: Tensor
    begins: Tensor

    def to(self, device: torch.device | str) -> "Vocabulary":
        """The same facts on a device."""
        return Vocabulary(self.size, self.mask, self.special.to(device), self.begins.to(device))


NONE = Vocabulary(0, -1, torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))
