"""The prefixes that requests may have in front of their prompt; they come and go while requests run.

Axes: L layers · G key/value heads · P prefix length · H head dim
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from torch import Tensor

from glm_core import AdapterError


class Prefixes:
    """Keys and values ``[L, 2, G, P, H]`` by adapter name; safe to use from any thread.

    A request keeps the prefix that it was accepted with until it has been copied into the KV
    cache. One that was removed meanwhile takes memory as long as such a request waits, and no longer.

    Args:
        named: adapter name to its prefix.
        base: the prefix of requests that name no adapter, if the model has one built in.
        context_length: tokens that one request may use at all.
        cache_capacity: positions of one slot of the KV cache.
    """

    def __init__(
        self, named: Mapping[str, Tensor], base: Tensor | None, context_length: int, cache_capacity: int
    ) -> None:
        self._named = dict(named)  # replaced as a whole, so that readers need no lock
        self._base = base
        self._context_length = context_length
        self._cache_capacity = cache_capacity
        self._changing = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that a request may name now, in the order in which they came."""
        return tuple(self._named)

    def check(self, name: str, length: int = 0) -> None:
        """Refuse a newcomer for its name or its length P, before time is spent on it.

        Raises:
            AdapterError: the name is taken, or the prefix leaves no room for a request.
        """
        if name in self._named:
            raise AdapterError(f"adapter {name!r} is loaded already; remove it first, or choose another name")
        if length >= self._cache_capacity:
            raise AdapterError(
                f"adapter {name!r} has {length} positions, a slot of the KV cache {self._cache_capacity}: "
                "no room is left for a request. Load the adapter at the start, which makes room for it, "
                "or use a larger --context-length."
            )

    def add(self, name: str, prefix: Tensor) -> None:
        """Offer a prefix, which must be on the device and in the dtype of the cache.

        Raises:
            AdapterError: see `check`.
        """
        with self._changing:
            self.check(name, prefix.shape[3])
            self._named = {**self._named, name: prefix}

    def remove(self, name: str) -> None:
        """Offer a prefix no longer.

        Raises:
            AdapterError: there is none of that name.
        """
        with self._changing:
            if name not in self._named:
                raise _not_loaded(name)
            self._named = {kept: prefix for kept, prefix in self._named.items() if kept != name}

    def of(self, adapter: str | None) -> Tensor | None:
        """The prefix of a request.

        Args:
            adapter: as the request names it; ``None`` = the base model.

        Raises:
            AdapterError: there is none of that name.
        """
        if adapter is None:
            return self._base
        prefix = self._named.get(adapter)
        if prefix is None:
            raise _not_loaded(adapter)
        return prefix

    def room_beside(self, prefix: Tensor | None) -> int:
        """Tokens that prompt and answer may have together, in a slot that also holds ``prefix``."""
        length = 0 if prefix is None else prefix.shape[3]
        return min(self._context_length, self._cache_capacity - length)


def _not_loaded(name: str) -> AdapterError:
    return AdapterError(f"adapter {name!r} is not loaded")
