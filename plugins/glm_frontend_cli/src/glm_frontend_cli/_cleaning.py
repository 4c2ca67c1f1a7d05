"""Making text from models and files safe to show."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, line separators, bidi embeddings and overrides, lone surrogates.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""``text`` without the characters that a terminal obeys instead of showing.

    Works character by character, so a sequence split over two pieces of a stream is harmless too.

    >>> clean("\x1b[31mred\r\n")
    '[31mred\n'
    """
    return _UNSAFE.sub("", text)
