"""Ending an answer before a stop string, also one whose characters come in different tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ..tokenizers.reply_filter import count_partial_match


class StopStrings:
    """Watches a stream of text for any of several strings.

    Args:
        strings: non-empty; the answer ends before the first that occurs.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take more text; return what is certain not to belong to a stop string, and whether one occurred."""
        text = self._held + text
        found = [index for index in (text.find(string) for string in self._strings) if index >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max((count_partial_match(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """Return the held text, when the answer ended for another reason."""
        held, self._held = self._held, ""
        return held
