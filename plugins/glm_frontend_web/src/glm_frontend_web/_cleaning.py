"""Taking out of text what would change how the rest of the page is read."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, line separators, bidi embeddings and overrides, lone surrogates.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""``text`` with newlines as ``\n`` and without control characters and direction overrides.

    >>> clean("one\r\ntwo\x1b[31m")
    'one\ntwo[31m'
    """
    return _UNSAFE.sub("", text.replace("\r\n", "\n"))
