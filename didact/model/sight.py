"""Who sees whom, and what each device derives from it once a forward instead of once a layer.

``q sees k  iff  doc[q] == doc[k] and k <= reach[q] and |q - k| < window``

``reach = q`` is causal, the document's last token is bidirectional, the prompt's last token is prefix-LM.

Block diffusion reads a row twice, noised and clean, and answers to one prompt share it and not each other, which no
``reach`` can say. There a second integer joins the rule, ``order``:

``order[q] == order[k] or (order[k] is even and order[k] < order[q])``

It is odd for the noised copy of a block and the next even number for its clean one; 0 for a prompt and any odd number
of its own for each answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from didact.errors import UsageProblem

Derived = TypeVar("Derived")


class Sight:
    """What every token of a batch may see.

    ``doc`` int [B, T] is the document of a token, -1 for padding; ``reach`` int64 [B, T] is the index in the row of
    the last token this one may see. A document is one unbroken run of its row, and a token sees at least one token of
    it. What padding computes is finite and reaches nobody; otherwise it means nothing. With ``order`` int64 [B, T] a
    document may branch, or stand in its row twice; the latter takes the slower path of the dense mask.
    """

    def __init__(self, doc: Tensor, reach: Tensor, order: Tensor | None = None):
        self.doc: Tensor | None = doc
        self.reach, self.order = reach, order
        self._derived: dict[tuple[Any, ...], Any] = {}

    @property
    def branches(self) -> bool:
        """Whether documents are prompts with answers, or plain: what an answer sees is its prompt and itself."""
        return self.order is None or self.derive(_branches)

    @classmethod
    def decode(cls, reach: Tensor) -> Sight:
        """The sight of new tokens on a cache of S slots: a query sees slot k iff ``k <= reach[q]``.

        ``reach`` int64 [B, Q]; each row of the batch is one document that starts at slot 0, so rows may hold any
        number of tokens. A sliding window counts slots back from ``reach``: a decoded token stands at its own reach.
        """
        sight = cls(reach, reach)
        sight.doc = None
        return sight

    def derive(self, make: Callable[..., Derived], *key: Any) -> Derived:
        """``make(self, *key)``, made once."""
        known = (make, *key)
        if known not in self._derived:
            self._derived[known] = make(self, *key)
        return self._derived[known]


def _branches(sight: Sight) -> bool:
    """No part but the first (order 0) is seen by others."""
    assert sight.order is not None
    return not bool(((sight.order > 0) & (sight.order % 2 == 0)).any())


def check_window(window: int | None, tokens: int) -> None:
    """Raises UsageProblem where a sliding window would slide: with ``order``, places in a row are no distances."""
    if window is not None and window < tokens:
        what = "rows whose documents branch or stand twice know no sliding windows"
        raise UsageProblem(what, remedy="choose a model without them, or rows no longer than the window")


def allowed(sight: Sight, keys: int, window: int | None) -> Tensor:
    """The dense mask, bool [B, Q, keys], true where the query sees the key: the definition, and the oracle of tests."""
    k = torch.arange(keys, device=sight.reach.device)
    sees = k <= sight.reach[..., None]  # [B, Q, S]
    if sight.doc is None:
        return sees if window is None else sees & (sight.reach[..., None] - k < window)
    sees = sees & (sight.doc[:, :, None] == sight.doc[:, None, :])
    if sight.order is not None:
        check_window(window, keys)
        q, k = sight.order[:, :, None], sight.order[:, None, :]
        return sees & ((q == k) | ((k % 2 == 0) & (k < q)))
    return sees if window is None else sees & ((k[:, None] - k).abs() < window)
