"""Text of a growing answer, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
# No character has more than four bytes, so what stays broken for eight tokens is broken for good.
MAX_HELD_TOKENS = 8


class IncrementalDetokenizer:
    """Turns tokens into text as they come.

    A character may be spelled by several byte tokens; their text is held until it is whole. Each
    step decodes a short window only, so that the cost of an answer grows with its length, not
    with its square. The window begins with already emitted tokens because how a piece is spelled
    can depend on the piece before it (a leading blank).

    Args:
        decode: returns the text of a list of ids.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0
        self._emitted = 0

    def feed(self, token_id: int) -> str:
        """Take one token and return the text that is now certain, maybe none."""
        self._ids.append(token_id)
        return self._advance(final=False)

    def flush(self) -> str:
        """Return the held rest; bytes that never became a character show as U+FFFD."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        if self._emitted == len(self._ids):
            return ""
        before = self._decode(self._ids[self._window : self._emitted])
        after = self._decode(self._ids[self._window :])
        held = len(self._ids) - self._emitted
        if after.endswith(REPLACEMENT) and held < MAX_HELD_TOKENS and not final:
            return ""
        self._window, self._emitted = self._emitted, len(self._ids)
        return after[len(before) :]
