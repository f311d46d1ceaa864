"""The key-value cache of the sampler: one slot a completion, filled from packed prompts, freed in any order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

GROWTH = 256  # slots grow by at least this many tokens at a time


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, K, capacity, hd].

    In a prefill a packed row [1, K, N, hd] comes in, is copied to its slots and handed back, so attention inside the
    row is the training path's. In a decode one token a slot comes in, [slots, K, 1, hd], and the whole cache goes out;
    behind documents read before, several tokens come for the last slots, and these go out.
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
        first, where, seen = self.owner.first, self.owner.where, self.owner.seen
        slots = self.owner.index[first:, None]
        self.key[slots, :, where] = key_states.transpose(1, 2)
        self.value[slots, :, where] = value_states.transpose(1, 2)
        return self.key[first:, :, :seen], self.value[first:, :, :seen]

    def put(self, slot: int, key: Tensor, value: Tensor) -> None:
        """Writes keys and values [K, N, hd] to the beginning of a slot."""
        if not self.is_initialized:
            self.lazy_initialization(key[None], value[None])
        self._grow()
        self.key[slot, :, : key.shape[1]] = key
        self.value[slot, :, : value.shape[1]] = value

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


@dataclass(frozen=True)
class Held:
    """What a slot holds of tokens read before: keys and values [K, N, hd], one a layer."""

    key: tuple[Tensor, ...]
    value: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.key[0].shape[1]


class SlotCache(Cache):
    """Slots for up to as many completions as are under way at once."""

    def __init__(self, layers: int, device: torch.device):
        self.filling: list[tuple[int, int, int]] = []  # (slot, start in the packed row, length) during a prefill
        self.length = torch.zeros(0, dtype=torch.int64, device=device)  # tokens held by each slot
        self.index = torch.zeros(0, dtype=torch.int64, device=device)
        self.where = self.index[:, None]  # [n, Q]: where in the slots from ``first`` on the next tokens go
        self.first = 0
        self.seen = 0  # how much of these slots the next tokens may look at
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

    def resume(self, documents: Sequence[Held], lengths: Sequence[int]) -> Tensor:
        """Adds a slot for each document; behind it goes a prompt of the next forward, a row each, padded at its end.

        Returns the places of the prompts' tokens in their slots, [n, Q].
        """
        held = self.length.new_tensor([len(document) for document in documents])
        first, size = self.slots, int(held.max()) + max(lengths)
        self._set(torch.cat([self.length, held + held.new_tensor(lengths)]), size)
        self.first, self.seen = first, size
        self.where = held[:, None] + torch.arange(max(lengths), device=held.device)
        for layer, store in enumerate(self.stores):
            for slot, document in enumerate(documents, first):
                store.put(slot, document.key[layer], document.value[layer])
        return self.where

    def held(self, slot: int) -> Held:
        """A copy of what a slot holds."""
        size = int(self.length[slot])
        layers = [(store.key[slot, :, :size].clone(), store.value[slot, :, :size].clone()) for store in self.stores]
        return Held(*zip(*layers, strict=True))

    def filled(self) -> None:
        """Ends the prefill."""
        self.filling = []
        self._set(self.length)

    def spread(self, source: Sequence[int]) -> None:
        """In place of the slots opened last come copies of them: each of ``source`` is a place among these."""
        count = max(source) + 1
        first = self.slots - count
        order = torch.tensor([*range(first), *(first + place for place in source)], device=self.length.device)
        for store in self.stores:
            store.key, store.value = store.key[order], store.value[order]
        self._set(self.length[order])

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

    def _set(self, length: Tensor, size: int = 0) -> None:
        """The lengths of the slots, which may hold ``size`` tokens; then each awaits one more."""
        self.length = length
        self.index = torch.arange(len(length), device=length.device)
        self.first, self.where = 0, length[:, None]
        self.seen = int(length.max()) + 1 if len(length) else 1
        if max(self.seen, size) > self.capacity:
            self.capacity = max(self.seen, size) + GROWTH


def _resized(old: Tensor, slots: int, capacity: int) -> Tensor:
    """A copy with other numbers of slots and tokens; what is new is zero, so that nothing unwritten is ever read."""
    new = old.new_zeros(slots, old.shape[1], max(capacity, old.shape[2]), old.shape[3])
    kept = min(slots, old.shape[0])
    new[:kept, :, : old.shape[2]] = old[:kept]
    return new
