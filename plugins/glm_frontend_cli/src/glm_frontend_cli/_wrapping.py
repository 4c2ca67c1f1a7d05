"""Breaking lines of mixed Chinese and Western text.

rich breaks at spaces only, so a Chinese clause that follows an English word jumps to the next
line whole and leaves a hole. Here a line may break between any two wide characters, but never so
that closing punctuation starts a line or opening punctuation ends one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

_WIDE = "\u2e80-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
_OPENING = "“‘《〈「『【〔（［｛"
_CLOSING = "”’》〉」』】〕）］｝，。、；：？！…—～·,.;:?!%"
_CHUNK = re.compile(
    rf"\s+|[{_OPENING}]*(?:[^\s{_WIDE}{_OPENING}]+|[{_WIDE}](?<![{_OPENING}]))[{_CLOSING}]*|."
)


def wrap(text: Text, width: int) -> list[Text]:
    """Return lines of at most ``width`` cells, without trailing spaces; at least one."""
    lines: list[Text] = []
    for paragraph in text.split("\n", allow_blank=True):
        paragraph.expand_tabs(4)
        for line in paragraph.divide(_find_breaks(paragraph.plain, max(width, 2))):
            line.rstrip()
            lines.append(line)
    return lines or [Text()]


def _find_breaks(text: str, width: int) -> Iterator[int]:
    """Yield offsets at which a new line starts."""
    column = 0
    for match in _CHUNK.finditer(text):
        chunk = match.group()
        cells = cell_len(chunk)
        if column + cells <= width or chunk.isspace():  # spaces hang over the edge; they are stripped
            column += cells
            continue
        if column:
            yield match.start()
            column = 0
        for offset, character in enumerate(chunk, start=match.start()):
            cells = cell_len(character)
            if column + cells > width:
                yield offset
                column = 0
            column += cells
