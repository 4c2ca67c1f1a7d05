"""What tests ask of a message: its key words, and not how its sentence is built."""

from __future__ import annotations

import re


def containing(*words: str) -> str:
    """Return a pattern that finds a text with all of some key words in it, in any order.

    For ``pytest.raises(..., match=containing("--slots", "8"))``. Words are taken as they are written.
    """
    return "(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)


def missing_words(text: str, *words: str) -> list[str]:
    """Return those of some key words that a text lacks; a test asserts that there are none."""
    return [word for word in words if word not in text]
