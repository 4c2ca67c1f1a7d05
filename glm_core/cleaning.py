"""Making text from models and files safe to show."""

from __future__ import annotations

import re

# C0 except tab and newline, DEL, C1, line separators, bidi embeddings and overrides, lone surrogates.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# At a sign of markup a parser looks for its partner in the rest of the paragraph, so that its work may grow
# with the product of signs and length: a few thousand brackets take milliseconds, 100,000 take minutes.
_MARKUP, _MAX_MARKUP_WORK = "!#$%&*+-:<=>@[\\]^_`{}~\n", 10_000_000


def has_costly_markup(paragraph: str) -> bool:
    """Return whether parsing a paragraph of Markdown could take long, so that it is better shown as it is."""
    return len(paragraph) * sum(map(paragraph.count, _MARKUP)) > _MAX_MARKUP_WORK


def clean_text(text: str) -> str:
    r"""Return ``text`` without the characters that a screen obeys instead of showing.

    Works character by character, so an escape sequence that is split over two deltas is harmless too.

    >>> clean_text("\x1b[31mred\r\n")
    '[31mred\n'
    """
    return _UNSAFE.sub("", text)
