"""The slotted KV cache: fixed memory, one slot a sequence.

Slots are whole conversations, not pages. On the CPU the memory of a slot that is not written is not
resident, which is most of what pages are for; and a decode step needs no table of pages, so attention
reads each row's keys and values in one piece.

Axes: B batch · T new tokens · S key positions · N query heads · G key/value heads · H head dim
      L layers · P positions written at once
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
    build_visibility_mask,
    compute_attention,
    takes_tensors,
)
from .memory import reserve_zeros
from .rotary import Rotary

# How many conversations a cache gets where nobody names a number and memory would allow more.
MAX_SLOTS = 16


class KVCache:
    """Keys and values of up to ``num_slots`` sequences of up to ``capacity`` positions each.

    All memory is reserved at once and nothing is allocated per token. On the CPU it is an anonymous
    mapping: room for the longest conversation that takes memory only where keys have been written. A
    sequence never looks at a position that was not written for it, so slots need no wiping between
    sequences. Which slots are taken is not known here; see `glm_runtime_torch.generation.slots`.

    Args:
        num_layers: L.
        num_slots: sequences at a time.
        num_kv_heads: G.
        capacity: positions of one slot, those of adapters included.
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
        self.num_bytes = num_slots * compute_slot_bytes(num_layers, num_kv_heads, capacity, head_dim, dtype)
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

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot into another."""
        for stored in (*self._keys, *self._values):
            stored[target, :, :length] = stored[source, :, :length]

    def write(self, slot: int, key_values: Tensor, start: int = 0) -> None:
        """Write keys and values ``[L, 2, G, P, H]`` to P positions of a slot from ``start`` on."""
        places = slice(start, start + key_values.shape[3])
        for layer, (keys, values) in enumerate(key_values):
            self._keys[layer][slot, :, places] = keys
            self._values[layer][slot, :, places] = values

    def select_prefill_rows(self, slot: int, start: int, context_length: int) -> PrefillRows:
        """Return the place where a prompt goes.

        Args:
            slot: of the sequence.
            start: positions that are taken already, by adapters and by tokens that are reused.
            context_length: how many leading tokens of the prompt see each other.
        """
        return PrefillRows(self._keys, self._values, slot, start, context_length)

    def select_decode_rows(self, slots: RowNumbers, lengths: RowNumbers) -> DecodeRows:
        """Return the rows of one step of T tokens each.

        Args:
            slots: slot of each row.
            lengths: positions of each row, the T new ones included; 0 for a row that is padding.
        """
        return DecodeRows(self._keys, self._values, slots, lengths, self._attention)


def compute_slot_bytes(
    num_layers: int, num_kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype
) -> int:
    """Return the memory of one slot's keys and values."""
    return 2 * num_layers * num_kv_heads * capacity * head_dim * dtype.itemsize


def choose_slots(wanted: int, slot_bytes: int, memory_bytes: int) -> int:
    """Return how many slots the KV cache gets.

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
    """One slot while its prompt is taken in; see `KVCache.select_prefill_rows`."""

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        slot: int,
        first: int,
        context_length: int,
    ) -> None:
        self._keys = keys
        self._values = values
        self._slot = slot
        self._first = first
        self._context_length = context_length

    def put(self, keys: Tensor, values: Tensor, layer: int, start: int) -> None:
        """Store rotated keys and values ``[1, G, t, H]`` of the tokens from ``start`` on."""
        places = slice(self._first + start, self._first + start + keys.shape[2])
        self._keys[layer][self._slot, :, places] = keys[0]
        self._values[layer][self._slot, :, places] = values[0]

    def attend(self, q: Tensor, layer: int, start: int) -> Tensor:
        """Return the context ``[1, t, N * H]`` of rotated queries ``[1, N, t, H]`` from token ``start`` on.

        Every key that these tokens see must have been put.
        """
        stop = start + q.shape[2]
        seen = self._first + max(stop, self._context_length)
        keys = self._keys[layer][self._slot : self._slot + 1, :, :seen]
        values = self._values[layer][self._slot : self._slot + 1, :, :seen]
        return compute_attention(q, keys, values, self._mask(start, stop, seen, q.device))

    def _mask(self, start: int, stop: int, seen: int, device: torch.device) -> Tensor | None:
        if stop <= self._context_length or stop - start == 1:
            return None  # the whole context sees itself; a single token sees all that is before it
        queries = self._first + torch.arange(start, stop, device=device).unsqueeze(0)
        to_all = torch.tensor([self._first + self._context_length], device=device)
        return build_visibility_mask(queries, to_all, seen)


class DecodeRows(AttendingStore):
    """Some slots as the rows of a step; see `KVCache.select_decode_rows`.

    Rows may have different lengths. A step of several tokens a row stores and attends token by token, as
    that many steps of one would: a backend's attention needs to know one new token a row only, and the
    result is the same bit for bit. What several tokens save is all around it: the linear layers read
    their weights once.
    """

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
        self._numbers: dict[tuple[torch.device, int], tuple[RowNumbers, RowNumbers]] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, layer: int) -> Tensor:
        """See `AttendingStore.attend`."""
        count = q.shape[2]
        if count == 1:
            return self._attend_to_one(q, k, v, rotary, layer, 0)
        contexts = []
        for token in range(count):
            only = slice(token, token + 1)
            one = q[:, :, only], k[:, :, only], v[:, :, only]
            angles = rotary.select_tokens(token, token + 1)
            contexts.append(self._attend_to_one(*one, angles, layer, count - 1 - token))
        return torch.cat(contexts, dim=1)

    def _attend_to_one(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, layer: int, following: int
    ) -> Tensor:
        """Store and attend for one token a row, which ``following`` more of this step come after."""
        slots, lengths = self._numbers_on(q.device, following)
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

    def _numbers_on(self, device: torch.device, following: int) -> tuple[RowNumbers, RowNumbers]:
        """Return slots and lengths as the attention takes them, made once a step for each device."""
        slots, lengths = self._slots, self._lengths
        if isinstance(lengths, Tensor):
            # Not kept: a recorded step must compute them anew. Length 0 is padding and stays so.
            return slots, lengths if not following else (lengths - following).clamp(min=0)
        found = self._numbers.get((device, following))
        if found is None:
            found = slots, [length - following for length in lengths]
            if takes_tensors(self._attention):
                both = torch.tensor([list(slots), found[1]], device=device)
                found = both[0], both[1]
            self._numbers[device, following] = found
        return found
