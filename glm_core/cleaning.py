"""Making text from models and files safe to show."""

from __future__ import annotations

import re

# C0 except tab and newline, DEL, C1, line separators, bidi embeddings and overrides, lone surrogates.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean_text(text: str) -> str:
    r"""Return ``text`` without the characters that a screen obeys instead of showing.

    Works character by character, so an escape sequence that is split over two deltas is harmless too.

    >>> clean_text("\x1b[31mred\r\n")
    '[31mred\n'
    """
    return _UNSAFE.sub("", text)
