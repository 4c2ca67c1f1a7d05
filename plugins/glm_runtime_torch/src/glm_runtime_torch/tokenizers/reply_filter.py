"""Cleaning a reply while it streams: what was emitted is never taken back.

Each filter's output, put together, equals the clean-up of the whole text at once; text whose
clean form still depends on what follows is held back until that is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

_HAN = re.compile("[\u4e00-\u9fff]")


class FullWidthPunctuation:
    """Half-width ``, ! : ; ?`` directly before or after a Chinese character become full-width."""

    PAIRS: ClassVar[dict[str, str]] = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}

    def __init__(self) -> None:
        self._previous = ""
        self._held = ""

    def feed(self, text: str, *, last: bool) -> str:
        """Take more text and return what is final; ``last`` releases everything."""
        out: list[str] = []
        for character in text:
            if self._held:
                out.append(self.PAIRS[self._held] if _HAN.match(character) else self._held)
                self._held = ""
            if character not in self.PAIRS:
                out.append(character)
            elif _HAN.match(self._previous):
                out.append(self.PAIRS[character])
            else:
                self._held = character
            self._previous = character
        if last:
            out.append(self._held)
            self._held = ""
        return "".join(out)


class ReplyFilter:
    """Strips outer whitespace, replaces fixed strings, then hands on to a punctuation rule.

    Args:
        replacements: string to what stands for it.
        punctuation: a rule fed with the rest, or ``None``.
    """

    def __init__(
        self, replacements: Mapping[str, str] | None = None, punctuation: FullWidthPunctuation | None = None
    ) -> None:
        self._replacements = dict(replacements or {})
        self._punctuation = punctuation
        self._started = False
        self._pending = ""

    def feed(self, text: str, *, last: bool = False) -> str:
        """Take more of the reply and return what can be shown; ``last`` ends the reply."""
        text = self._pending + text
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        for found, replacement in self._replacements.items():
            text = text.replace(found, replacement)
        if last:
            text, self._pending = text.rstrip(), ""
        else:
            cut = self._count_stable(text)
            text, self._pending = text[:cut], text[cut:]
        return self._punctuation.feed(text, last=last) if self._punctuation else text

    def _count_stable(self, text: str) -> int:
        cut = len(text.rstrip())  # trailing whitespace is stripped if nothing follows
        for found in self._replacements:
            cut = min(cut, len(text) - count_partial_match(text, found))
        return cut


def count_partial_match(text: str, wanted: str) -> int:
    """Return the length of the longest end of ``text`` that is a proper beginning of ``wanted``."""
    for length in range(min(len(wanted) - 1, len(text)), 0, -1):
        if text.endswith(wanted[:length]):
            return length
    return 0
