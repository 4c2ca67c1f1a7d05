"""The slotted KV cache: fixed memory, one slot a sequence, rows of a batch chosen freely.

Axes: B batch · T new tokens · S key positions · G key/value heads · H head dim · L layers
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from glm_core.errors import OutOfMemoryError

from .memory import reserve_zeros


class KVCache:
    """Keys and values of up to ``num_slots`` sequences of up to ``capacity`` positions each.

    All memory is reserved at once and nothing is allocated per token. On the CPU reserved
    memory is not resident before it is written. Positions that hold no key are zero, never
    garbage: a masked key has weight 0, and 0 times NaN is NaN.

    Args:
        num_layers: L.
        num_slots: sequences at a time.
        num_kv_heads: G.
        capacity: positions of one slot, a prefix included.
        head_dim: H.
        dtype: of keys and values.
        device: where they are.

    Raises:
        OutOfMemoryError: the device refuses the reservation.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity = capacity
        shape = (num_slots, num_kv_heads, capacity, head_dim)
        needed = 2 * num_layers * torch.Size(shape).numel() * dtype.itemsize
        try:
            self._keys = [reserve_zeros(shape, dtype, device) for _ in range(num_layers)]
            self._values = [reserve_zeros(shape, dtype, device) for _ in range(num_layers)]
        except (RuntimeError, OSError, OverflowError) as error:
            raise OutOfMemoryError(
                f"the KV cache needs {needed / 1e9:.2f} GB ({num_slots} conversations of {capacity} tokens), "
                f"which {device} refuses. Use a smaller max_length or a smaller model."
            ) from error
        self._used = [0] * num_slots
        self._free = list(range(num_slots))
        self._available = threading.Condition()

    def acquire(self) -> int:
        """Take a free slot, waiting until there is one."""
        with self._available:
            self._available.wait_for(lambda: bool(self._free))
            return self._free.pop()

    def release(self, slot: int) -> None:
        """Give a slot back and wipe it."""
        for tensor in (*self._keys, *self._values):
            tensor[slot, :, : self._used[slot]] = 0
        self._used[slot] = 0
        with self._available:
            self._free.append(slot)
            self._available.notify()

    @property
    def free_slots(self) -> int:
        """How many slots are free now."""
        return len(self._free)

    def write_prefix(self, slot: int, prefix: Tensor) -> None:
        """Put ``[L, 2, G, P, H]`` at the first P positions of a slot."""
        length = prefix.shape[3]
        for layer, (keys, values) in enumerate(prefix):
            self._keys[layer][slot, :, :length] = keys
            self._values[layer][slot, :, :length] = values

    def rows(self, slots: Sequence[int], starts: Sequence[int], num_tokens: int) -> CacheRows:
        """The rows of one forward pass.

        Args:
            slots: slot of each of the B rows.
            starts: position at which each row's T new tokens begin.
            num_tokens: T.
        """
        for slot, start in zip(slots, starts, strict=True):
            self._used[slot] = max(self._used[slot], start + num_tokens)
        return CacheRows(self._keys, self._values, slots, starts, num_tokens)


class CacheRows:
    """Some slots as the rows of a batch; implements `glm_runtime_torch.attention.KeyValueStore`.

    Rows may begin at different positions. Keys of shorter rows are followed by zeros up to the
    longest row's end: the attention mask hides them.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        slots: Sequence[int],
        starts: Sequence[int],
        num_tokens: int,
    ) -> None:
        self._keys = keys
        self._values = values
        self._start = starts[0]
        self._slot = slots[0] if len(slots) == 1 else None
        self.num_keys = max(starts) + num_tokens
        if self._slot is None:
            device = keys[0].device
            self._slots = torch.tensor(slots, device=device)
            first = torch.tensor(starts, device=device).unsqueeze(1)
            self._positions = first + torch.arange(num_tokens, device=device)  # [B, T]

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store new ``[B, G, T, H]``; return ``[B, G, S, H]`` from the rows' beginning."""
        return self._put(self._keys[layer], keys), self._put(self._values[layer], values)

    def _put(self, cache: Tensor, new: Tensor) -> Tensor:
        if self._slot is not None:  # one row is contiguous: no gather, no copy
            cache[self._slot, :, self._start : self.num_keys] = new[0]
            return cache[self._slot : self._slot + 1, :, : self.num_keys]
        cache[self._slots.unsqueeze(1), :, self._positions] = new.transpose(1, 2)  # [B, T, G, H]
        return cache[self._slots, :, : self.num_keys]
