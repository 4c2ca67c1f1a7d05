"""Prompts that slots of the KV cache still hold, so that the next turn prefills only what is new.

A slot keeps its keys and values after its request has ended. A prompt that begins like one that a slot
holds takes that slot, or a copy of its front if the slot is busy: the earlier turns of a conversation,
a system prompt that many share. Only causal families can do so: where the context sees itself in both
directions, every key depends on what follows.

**Reuse changes no bit.** Prefill cuts a prompt at multiples of the chunk size, and what a chunk computes
depends on it and on what stands before it. So whole chunks of prompts are reused, and nothing else: no
part of a chunk, and no token of an answer, which a decode step computed with other kernels.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..network.kv_cache import KVCache


@dataclass
class _Held:
    """What a slot holds: whole chunks of a prompt behind a P-Tuning prefix, and when it was last wanted."""

    prefix: weakref.ref[Tensor] | None
    token_ids: tuple[int, ...]
    wanted: int


class PrefixCache:
    """Gives out the slots of a KV cache, each with as much of the prompt as it holds already.

    Not safe between threads: the engine's lock is held.

    Args:
        cache: whose slots.
        chunk_size: tokens that pass the network at once, see `glm_runtime_torch.network.prefill`.
    """

    def __init__(self, cache: KVCache, chunk_size: int) -> None:
        self._cache = cache
        self._chunk_size = chunk_size
        self._held: dict[int, _Held] = {}
        self._clock = 0

    def acquire(self, prefix: Tensor | None, token_ids: Sequence[int], *, causal: bool) -> tuple[int, int]:
        """Take a free slot for a prompt; there must be one.

        Args:
            prefix: the request's P-Tuning prefix, which stands before the prompt.
            token_ids: the prompt.
            causal: whether no token sees what follows it.

        Returns:
            The slot, and how many leading tokens of the prompt it holds (0 where nothing fits).
        """
        self._clock += 1
        source, length = self._best(prefix, token_ids) if causal else (-1, 0)
        free = self._cache.free
        oldest = min(free, key=lambda slot: self._held[slot].wanted if slot in self._held else -1)
        slot = source if source in free else oldest
        self._cache.acquire(slot)
        if length and slot != source:
            self._held[source].wanted = self._clock
            self._cache.copy(source, slot, length + (0 if prefix is None else prefix.shape[3]))
        reference = None if prefix is None else weakref.ref(prefix)
        self._held[slot] = _Held(reference, tuple(token_ids[:length]), self._clock)
        return slot, length

    def keep(self, slot: int, token_ids: Sequence[int]) -> None:
        """The prompt that a slot was acquired for is in it as a whole now."""
        length = len(token_ids) // self._chunk_size * self._chunk_size
        self._held[slot].token_ids = tuple(token_ids[:length])

    def forget(self) -> None:
        """Let every slot forget what it holds; for measuring what reuse is worth."""
        self._held = {slot: _Held(None, (), 0) for slot in self._held}

    def _best(self, prefix: Tensor | None, token_ids: Sequence[int]) -> tuple[int, int]:
        """The slot that holds most of a prompt, a free one rather than a busy one, and how many tokens."""
        best, longest = -1, 0
        for slot, held in self._held.items():
            # A reference to a prefix that is gone is None too, which stands for no prefix elsewhere.
            same = (
                held.prefix is None if prefix is None else held.prefix is not None and held.prefix() is prefix
            )
            shared = _common(held.token_ids, token_ids[:-1]) if same else 0  # the last token is always fed
            length = shared // self._chunk_size * self._chunk_size
            better = length == longest > 0 and slot in self._cache.free and best not in self._cache.free
            if length > longest or better:
                best, longest = slot, length
        return best, longest


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
