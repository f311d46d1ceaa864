"""The key-value cache of the sampler: one slot a completion, filled from packed prompts, freed in any order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

GROWTH = 256  # slots grow by at least this many tokens at a time


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, K, capacity, hd].

    In a prefill a packed row [1, K, N, hd] comes in, is copied to its slots and handed back, so attention inside the
    row is the training path's. In a decode one token a slot comes in, [slots, K, 1, hd], and the whole cache goes out.
    """

    def __init__(self, owner: "SlotCache"):
        super().__init__()
        self.owner = owner
        self.key = self.value = torch.empty(0)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to hold yet: slots grow when they are filled."""
        self.key = key_states.new_empty(0, key_states.shape[1], 0, key_states.shape[3])
        self.value = value_states.new_empty(0, value_states.shape[1], 0, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values; returns what the new queries attend over."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.owner.filling:
            self._grow()
            for slot, start, length in self.owner.filling:
                self.key[slot, :, :length] = key_states[0, :, start : start + length]
                self.value[slot, :, :length] = value_states[0, :, start : start + length]
            return key_states, value_states
        self._grow()
        slots, where = self.owner.index, self.owner.length
        self.key[slots, :, where] = key_states[:, :, 0]
        self.value[slots, :, where] = value_states[:, :, 0]
        used = self.owner.used + 1
        return self.key[:, :, :used], self.value[:, :, :used]

    def _grow(self) -> None:
        slots, capacity = self.owner.slots, self.owner.capacity
        if self.key.shape[0] != slots or self.key.shape[2] < capacity:
            self.key, self.value = _resized(self.key, slots, capacity), _resized(self.value, slots, capacity)

    def move(self, source: int, target: int) -> None:
        """Copies one slot over another."""
        self.key[target] = self.key[source]
        self.value[target] = self.value[source]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Asked by transformers' mask code, whose mask Didact does not use."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Asked by models that are not given positions; Didact always gives them."""
        return 0

    def get_max_length(self) -> int:
        """No bound."""
        return -1


class SlotCache(Cache):
    """Slots for up to as many completions as are under way at once."""

    def __init__(self, layers: int, device: torch.device):
        self.filling: list[tuple[int, int, int]] = []  # (slot, start in the packed row, length) during a prefill
        self.length = torch.zeros(0, dtype=torch.int64, device=device)  # tokens held by each slot
        self.index = torch.zeros(0, dtype=torch.int64, device=device)
        self.used = 0  # the longest slot
        self.capacity = 0
        self.stores = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=[*self.stores])

    @property
    def slots(self) -> int:
        """How many slots there are, all occupied."""
        return len(self.length)

    def open(self, lengths: Sequence[int]) -> None:
        """Adds a slot for each prompt of the next forward, packed in this order in one row."""
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        first = self.slots
        self.filling = [(first + i, start, n) for i, (start, n) in enumerate(zip(starts, lengths, strict=True))]
        self._set(torch.cat([self.length, self.length.new_tensor(lengths)]))

    def filled(self) -> None:
        """Ends the prefill."""
        self.filling = []

    def advance(self) -> None:
        """Counts the token that every slot has just received."""
        self._set(self.length + 1)

    def close(self, slot: int) -> None:
        """Frees a slot; the last one takes its number."""
        last = self.slots - 1
        if slot != last:
            for store in self.stores:
                store.move(last, slot)
            self.length[slot] = self.length[last]
        self._set(self.length[:last].clone())

    def _set(self, length: Tensor) -> None:
        self.length = length
        self.index = torch.arange(len(length), device=length.device)
        self.used = int(length.max()) if len(length) else 0
        if self.used + 1 > self.capacity:
            self.capacity = self.used + 1 + GROWTH


def _resized(old: Tensor, slots: int, capacity: int) -> Tensor:
    """A copy with other numbers of slots and tokens; what is new is zero, so that nothing unwritten is ever read."""
    new = old.new_zeros(slots, old.shape[1], max(capacity, old.shape[2]), old.shape[3])
    kept = min(slots, old.shape[0])
    new[:kept, :, : old.shape[2]] = old[:kept]
    return new
