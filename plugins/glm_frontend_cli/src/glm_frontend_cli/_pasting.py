"""Long pasted text: a short mark stands for it in the input line, so that the screen stays readable."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prompt_toolkit.history import History

from ._texts import Texts

MAX_LINES = 12
MAX_CHARACTERS = 1500


class Pastes:
    """What was pasted in this session, by the mark that stands for it."""

    def __init__(self, say: Texts) -> None:
        self._say = say
        self._texts: dict[str, str] = {}

    def shorten(self, text: str) -> str:
        """Return a mark in place of a long text; a short text as it is."""
        lines = text.count("\n") + (not text.endswith("\n"))
        if lines <= MAX_LINES and len(text) <= MAX_CHARACTERS:
            return text
        mark = self._say("pasted", number=len(self._texts) + 1, lines=lines)
        self._texts[mark] = text
        return mark

    def expand(self, text: str) -> str:
        """Return ``text`` with what was pasted in place of each mark."""
        if not self._texts:
            return text
        marks = "|".join(map(re.escape, self._texts))
        return re.sub(marks, lambda match: self._texts[match.group()], text)

    def find_mark(self, text: str) -> str:
        """Return the mark at the end of ``text``, or nothing."""
        return next((mark for mark in self._texts if text.endswith(mark)), "")


class ExpandingHistory(History):
    """A history whose store holds what was pasted and not the mark, which a later session could not read.

    Args:
        kept: where entries are kept.
        pastes: of the session.
    """

    def __init__(self, kept: History, pastes: Pastes) -> None:
        super().__init__()
        self._kept = kept
        self._pastes = pastes

    def load_history_strings(self) -> Iterable[str]:
        """Return entries of the store, the newest first."""
        return self._kept.load_history_strings()

    def store_string(self, string: str) -> None:
        """Keep an entry in the store, its pastes written out."""
        self._kept.store_string(self._pastes.expand(string))
