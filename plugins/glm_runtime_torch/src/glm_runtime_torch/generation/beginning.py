"""Answers that must begin in one of several ways."""

from __future__ import annotations

from collections.abc import Sequence


class Beginning:
    """Says which tokens may come next while an answer's beginning is prescribed.

    Among the ways that are still open the model chooses; with one way left nothing is chosen.

    Args:
        ways: token ids that the answer may begin with; none = the answer is free from the start.
    """

    def __init__(self, ways: Sequence[Sequence[int]] = ()) -> None:
        self._ways = tuple(tuple(way) for way in ways)

    @property
    def is_open(self) -> bool:
        """Whether the next token may have to be one of a few."""
        return bool(self._ways)

    def allowed(self, answer: Sequence[int]) -> tuple[int, ...] | None:
        """The ids that may follow ``answer``, ascending; ``None`` once everything may."""
        if not self._ways:
            return None
        so_far = tuple(answer)
        open_ways = [way for way in self._ways if way[: len(so_far)] == so_far]
        if not open_ways or so_far in open_ways:
            self._ways = ()
            return None
        return tuple(sorted({way[len(so_far)] for way in open_ways}))
