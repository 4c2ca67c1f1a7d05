"""The slotted KV cache: fixed memory, one slot a sequence.

Axes: B batch · T new tokens · S key positions · N query heads · G key/value heads · H head dim
      L layers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glm_core.errors import OutOfMemoryError

from .attention import (
    AttendingStore,
    DecodeAttention,
    RowNumbers,
    TorchDecodeAttention,
    scaled_product,
    takes_tensors,
    visibility_mask,
)
from .memory import reserve_zeros
from .rotary import Rotary

MAX_SLOTS = 16


class KVCache:
    """Keys and values of up to ``num_slots`` sequences of up to ``capacity`` positions each.

    All memory is reserved at once and nothing is allocated per token. On the CPU reserved
    memory is not resident before it is written. A sequence never looks at a position that it has
    not written itself, so slots need no wiping between sequences.

    Args:
        num_layers: L.
        num_slots: sequences at a time.
        num_kv_heads: G.
        capacity: positions of one slot, a prefix included.
        head_dim: H.
        dtype: of keys and values.
        device: where they are.
        layer_devices: where those of each layer are, if not all are on ``device``.
        attention: what decodes over the slots.

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
        layer_devices: Sequence[torch.device] | None = None,
        attention: DecodeAttention | None = None,
    ) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        shape = (num_slots, num_kv_heads, capacity, head_dim)
        self.num_bytes = num_slots * bytes_per_slot(num_layers, num_kv_heads, capacity, head_dim, dtype)
        places = [device] * num_layers if layer_devices is None else list(layer_devices)
        try:
            self._keys = [reserve_zeros(shape, dtype, place) for place in places]
            self._values = [reserve_zeros(shape, dtype, place) for place in places]
        except (RuntimeError, OSError, OverflowError) as error:
            where = ", ".join(dict.fromkeys(map(str, places)))
            raise OutOfMemoryError(
                f"the KV cache needs {self.num_bytes / 1e9:.2f} GB ({num_slots} conversations of {capacity} "
                f"tokens), which {where} refuses. Use a smaller --context-length, fewer --slots or a "
                "smaller model."
            ) from error
        self._attention = TorchDecodeAttention() if attention is None else attention
        self._free = list(range(num_slots))

    def acquire(self, slot: int | None = None) -> int:
        """Take a free slot, this one or any; there must be one."""
        if slot is None:
            return self._free.pop()
        self._free.remove(slot)
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)

    @property
    def free_slots(self) -> int:
        """How many slots are free now."""
        return len(self._free)

    @property
    def free(self) -> Sequence[int]:
        """The slots that are free now."""
        return self._free

    def copy(self, source: int, target: int, length: int) -> None:
        """Put the first ``length`` positions of one slot into another."""
        for stored in (*self._keys, *self._values):
            stored[target, :, :length] = stored[source, :, :length]

    def write_prefix(self, slot: int, prefix: Tensor) -> None:
        """Put ``[L, 2, G, P, H]`` at the first P positions of a slot."""
        length = prefix.shape[3]
        for layer, (keys, values) in enumerate(prefix):
            self._keys[layer][slot, :, :length] = keys
            self._values[layer][slot, :, :length] = values

    def prefill_rows(self, slot: int, prefix_length: int, context_length: int) -> PrefillRows:
        """Where one prompt goes.

        Args:
            slot: of the sequence.
            prefix_length: P, positions that a prefix has taken.
            context_length: how many leading tokens of the prompt see each other.
        """
        return PrefillRows(self._keys, self._values, slot, prefix_length, context_length)

    def decode_rows(self, slots: RowNumbers, lengths: RowNumbers) -> DecodeRows:
        """The rows of one decode step.

        Args:
            slots: slot of each row.
            lengths: positions of each row, the new token's included; 0 for a row that is padding.
        """
        return DecodeRows(self._keys, self._values, slots, lengths, self._attention)


def bytes_per_slot(
    num_layers: int, num_kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype
) -> int:
    """Memory of one slot's keys and values."""
    return 2 * num_layers * num_kv_heads * capacity * head_dim * dtype.itemsize


def choose_slots(wanted: int, slot_bytes: int, memory_bytes: int) -> int:
    """How many slots the KV cache gets.

    Args:
        wanted: by the user; 0 = as many as fit, at most `MAX_SLOTS`.
        slot_bytes: memory of one.
        memory_bytes: that they may take together; 0 = no limit.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    fitting = memory_bytes // slot_bytes if memory_bytes else wanted or MAX_SLOTS
    if fitting < max(1, wanted):
        needed = max(1, wanted) * slot_bytes
        raise OutOfMemoryError(
            f"the KV cache of {max(1, wanted)} conversations needs {needed / 1e9:.2f} GB, "
            f"{memory_bytes / 1e9:.2f} GB are set aside for it. Use a smaller --context-length, "
            "fewer --slots, or a larger --kv-memory."
        )
    return wanted or min(fitting, MAX_SLOTS)


class PrefillRows:
    """One slot while its prompt is taken in."""

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        slot: int,
        prefix_length: int,
        context_length: int,
    ) -> None:
        self._keys = keys
        self._values = values
        self._slot = slot
        self._prefix_length = prefix_length
        self._context_length = context_length

    def put(self, keys: Tensor, values: Tensor, layer: int, start: int) -> None:
        """Keep rotated keys and values ``[1, G, t, H]`` of the tokens from ``start`` on."""
        first = self._prefix_length + start
        places = slice(first, first + keys.shape[2])
        self._keys[layer][self._slot, :, places] = keys[0]
        self._values[layer][self._slot, :, places] = values[0]

    def attend(self, q: Tensor, layer: int, start: int) -> Tensor:
        """The context ``[1, t, N * H]`` of rotated queries ``[1, N, t, H]`` of the tokens from ``start`` on.

        Every key that these tokens see must have been put.
        """
        stop = start + q.shape[2]
        seen = self._prefix_length + max(stop, self._context_length)
        keys = self._keys[layer][self._slot : self._slot + 1, :, :seen]
        values = self._values[layer][self._slot : self._slot + 1, :, :seen]
        return scaled_product(q, keys, values, self._mask(start, stop, seen, q.device))

    def _mask(self, start: int, stop: int, seen: int, device: torch.device) -> Tensor | None:
        if stop <= self._context_length or stop - start == 1:
            return None  # the whole context sees itself; a single token sees all that is before it
        queries = self._prefix_length + torch.arange(start, stop, device=device).unsqueeze(0)
        to_all = torch.tensor([self._prefix_length + self._context_length], device=device)
        return visibility_mask(queries, to_all, seen)


class DecodeRows(AttendingStore):
    """Some slots as the rows of a decode step; rows may have different lengths."""

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        slots: RowNumbers,
        lengths: RowNumbers,
        attention: DecodeAttention,
    ) -> None:
        self._keys = keys
        self._values = values
        self._slots = slots
        self._lengths = lengths
        self._attention = attention
        self._on_devices: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, layer: int) -> Tensor:
        """See `AttendingStore.attend`; T is 1."""
        slots, lengths = self._numbers(q.device)
        return self._attention.decode(
            q,
            k,
            v,
            rotary.cos,
            rotary.sin,
            self._keys[layer],
            self._values[layer],
            slots,  # type: ignore[arg-type]  # tensors only for an attention that takes them
            lengths,  # type: ignore[arg-type]
        )

    def _numbers(self, device: torch.device) -> tuple[RowNumbers, RowNumbers]:
        """Slots and lengths as the attention takes them, copied once a step to each device."""
        if isinstance(self._slots, Tensor) or not takes_tensors(self._attention):
            return self._slots, self._lengths
        if device not in self._on_devices:
            both = torch.tensor([list(self._slots), list(self._lengths)], device=device)
            self._on_devices[device] = both[0], both[1]
        return self._on_devices[device]
