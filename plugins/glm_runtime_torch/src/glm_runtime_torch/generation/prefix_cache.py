"""Prompts that slots of the KV cache still hold, so that the next turn prefills only what is new.

A slot keeps its keys and values after its request has ended. A prompt that begins like one that a slot
holds takes that slot, or a copy of its front if the slot is busy: the earlier turns of a conversation,
a system prompt that many share. Only causal families can do so: where the context sees itself in both
directions, every key depends on what follows.

**Reuse changes no bit.** Prefill cuts a prompt at multiples of the chunk size, and what a chunk computes
depends on it and on what stands before it. So whole chunks of prompts are reused, and nothing else: no
part of a chunk, and no token of an answer, which a decode step computed with other kernels.

**What a slot holds is known by content**: the tokens, and the content key of the adapter that they were
computed with. An adapter that is removed and added again finds its prompts; another one under the same
name does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..adapters.adapter import Adapter
from ..network.kv_cache import KVCache
from .slots import SlotAllocator

NO_ADAPTER = ""


@dataclass
class _HeldPrompt:
    """What a slot holds: whole chunks of a prompt, computed with an adapter.

    Attributes:
        adapter_key: content key of the adapter.
        token_ids: of the chunks.
        last_wanted: when a prompt last made use of it, on the cache's own clock.
    """

    adapter_key: str
    token_ids: tuple[int, ...]
    last_wanted: int


class PrefixCache:
    """Takes slots for prompts, each the one that holds most of its prompt already.

    Not safe between threads: the scheduler's lock is held.

    Args:
        cache: whose slots.
        slots: which of them are free.
        chunk_size: tokens that pass the network at once, see `glm_runtime_torch.network.prefill`.
    """

    def __init__(self, cache: KVCache, slots: SlotAllocator, chunk_size: int) -> None:
        self._cache = cache
        self._slots = slots
        self._chunk_size = chunk_size
        self._held: dict[int, _HeldPrompt] = {}
        self._clock = 0

    def acquire(self, adapter: Adapter | None, token_ids: Sequence[int], *, causal: bool) -> tuple[int, int]:
        """Take a free slot for a prompt; there must be one.

        Args:
            adapter: of the request.
            token_ids: the prompt.
            causal: whether no token sees what follows it.

        Returns:
            The slot, and how many leading tokens of the prompt it holds (0 where nothing fits); with
            them it holds the adapter's positions.
        """
        self._clock += 1
        key = NO_ADAPTER if adapter is None else adapter.content_key
        source, length = self._find_longest(key, token_ids) if causal else (-1, 0)
        slot = self._slots.acquire(source if source in self._slots.free else self._find_oldest())
        if length and slot != source:
            self._held[source].last_wanted = self._clock
            self._cache.copy(source, slot, length + (0 if adapter is None else adapter.num_positions))
        self._held[slot] = _HeldPrompt(key, tuple(token_ids[:length]), self._clock)
        return slot, length

    def keep(self, slot: int, token_ids: Sequence[int]) -> None:
        """Note that the prompt that a slot was acquired for is in it as a whole now."""
        length = len(token_ids) // self._chunk_size * self._chunk_size
        self._held[slot].token_ids = tuple(token_ids[:length])

    def forget(self) -> None:
        """Let every slot forget what it holds; for measuring what reuse is worth."""
        for held in self._held.values():
            held.token_ids, held.last_wanted = (), 0

    def _find_oldest(self) -> int:
        """Return the free slot whose prompt was not wanted for the longest time."""
        held = self._held
        return min(self._slots.free, key=lambda slot: held[slot].last_wanted if slot in held else -1)

    def _find_longest(self, key: str, token_ids: Sequence[int]) -> tuple[int, int]:
        """Return the slot that holds most of a prompt, preferably a free one, and how many tokens."""
        best, longest = -1, 0
        for slot, held in self._held.items():
            if held.adapter_key != key:
                continue
            shared = _count_common(held.token_ids, token_ids[:-1])  # the last token is always fed
            length = shared // self._chunk_size * self._chunk_size
            free = self._slots.free
            better = length == longest > 0 and slot in free and best not in free
            if length > longest or better:
                best, longest = slot, length
        return best, longest


def _count_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens are equal."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
