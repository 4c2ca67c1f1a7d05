"""Counting what may happen at the same time."""

from __future__ import annotations

import threading

from .errors import build_too_many_error


class Capacity:
    """A number of places, taken and given back from any thread.

    Args:
        limit: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken

    def take(self, places: int = 1) -> None:
        """Take places, all or none.

        Raises:
            ApiError: 429, not as many are free.
        """
        with self._lock:
            if self._taken + places > self.limit:
                raise build_too_many_error(self.limit)
            self._taken += places

    def give_back(self) -> None:
        """Give back one place."""
        with self._lock:
            self._taken -= 1
