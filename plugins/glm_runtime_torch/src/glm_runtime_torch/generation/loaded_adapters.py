"""The adapters that requests may name; they come and go while requests run."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from glm_core import AdapterError

from ..adapters.adapter import Adapter


class LoadedAdapters:
    """Adapters by their names; safe to use from any thread.

    A request keeps the adapter that it was accepted with for as long as it needs it: a prefix until it
    has been copied into the KV cache. One that was removed meanwhile takes memory until then.

    Args:
        adapters: to begin with.
        base: the adapter of requests that name none, if the model has one built in.
        context_length: tokens that one request may use at all.
        cache_capacity: positions of one slot of the KV cache.
    """

    def __init__(
        self, adapters: Iterable[Adapter], base: Adapter | None, context_length: int, cache_capacity: int
    ) -> None:
        # Replaced as a whole, so that readers need no lock.
        self._by_name = {adapter.name: adapter for adapter in adapters}
        self._base = base
        self._context_length = context_length
        self._cache_capacity = cache_capacity
        self._changing = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a request may give now, in the order in which the adapters came."""
        return tuple(self._by_name)

    def check(self, name: str, num_positions: int = 0) -> None:
        """Refuse a newcomer for its name or its positions, before time is spent on it.

        Raises:
            AdapterError: the name is taken, or the adapter leaves no room for a request.
        """
        if name in self._by_name:
            raise AdapterError(f"adapter {name!r} is loaded already; remove it first, or choose another name")
        if num_positions >= self._cache_capacity:
            raise AdapterError(
                f"adapter {name!r} has {num_positions} positions, a slot of the KV cache "
                f"{self._cache_capacity}: no room is left for a request. Load the adapter at the start, "
                "which makes room for it, or use a larger --context-length."
            )

    def add(self, adapter: Adapter) -> None:
        """Offer an adapter from now on.

        Raises:
            AdapterError: see `check`.
        """
        with self._changing:
            self.check(adapter.name, adapter.num_positions)
            self._by_name = {**self._by_name, adapter.name: adapter}

    def remove(self, name: str) -> None:
        """Offer an adapter no longer.

        Raises:
            AdapterError: there is none of that name.
        """
        with self._changing:
            if name not in self._by_name:
                raise _make_not_loaded_error(name)
            self._by_name = {kept: adapter for kept, adapter in self._by_name.items() if kept != name}

    def get(self, name: str | None) -> Adapter | None:
        """Return the adapter of a request.

        Args:
            name: as the request gives it; ``None`` = the base model.

        Raises:
            AdapterError: there is none of that name.
        """
        if name is None:
            return self._base
        adapter = self._by_name.get(name)
        if adapter is None:
            raise _make_not_loaded_error(name)
        return adapter

    def count_room_beside(self, adapter: Adapter | None) -> int:
        """Return how many tokens prompt and answer may have together in a slot that also holds ``adapter``.

        A slot is as large as it was made at the start, with room for the longest adapter of then. What a
        later one takes beyond that, its requests have less.
        """
        taken = 0 if adapter is None else adapter.num_positions
        return min(self._context_length, self._cache_capacity - taken)


def _make_not_loaded_error(name: str) -> AdapterError:
    return AdapterError(f"adapter {name!r} is not loaded")
