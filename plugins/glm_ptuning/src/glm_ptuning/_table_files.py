"""Reading rows from JSON, JSON Lines and CSV files, each with the number of the line where it begins."""

from __future__ import annotations

import bisect
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_core.errors import ConfigError

CSV_ENDINGS = (".csv",)
MAX_SHOWN = 60


@dataclass(frozen=True)
class TableRow:
    """What stands at one place of a file.

    Attributes:
        line: number of its first line, from 1.
        content: the row; ``None`` if there is none.
        problem: why it is no row, or empty.
    """

    line: int
    content: dict[str, Any] | None
    problem: str = ""


def read_table(path: Path) -> Iterator[TableRow]:
    """Yield every row of a file, bad ones with what is wrong with them.

    A file whose first character is ``[`` is one JSON array; others are JSON Lines, or CSV by their ending.

    Raises:
        ConfigError: the file cannot be read, or is no UTF-8 text.
    """
    text = _text_of(path)
    if path.suffix.lower() in CSV_ENDINGS:
        return _csv_rows(text)
    return _array_rows(text) if text.lstrip().startswith("[") else _json_lines(text)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path} is no UTF-8 text: line {line} holds the byte 0x{error.object[error.start]:02x}; "
            "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _json_lines(text: str) -> Iterator[TableRow]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at U+2028
        if not line.strip():
            continue
        try:
            yield _row(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield TableRow(number, None, f"no valid JSON ({_reason(error)}): {_shorten(line)}")


def _array_rows(text: str) -> Iterator[TableRow]:
    starts = [0, *(place + 1 for place, character in enumerate(text) if character == "\n")]
    decoder = json.JSONDecoder()

    def line_of(place: int) -> int:
        return bisect.bisect_right(starts, place)

    place = _after_blanks(text, text.index("[") + 1)
    while place < len(text) and text[place] != "]":
        try:
            content, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            where = error.pos if isinstance(error, json.JSONDecodeError) else place
            yield TableRow(
                line_of(where), None, f"no valid JSON ({_reason(error)}): {_shorten(text[place:])}"
            )
            return  # where the next row begins cannot be told
        yield _row(line_of(place), content)
        place = _after_blanks(text, end)
        if text[place : place + 1] == ",":
            place = _after_blanks(text, place + 1)
        elif text[place : place + 1] != "]":
            break
    if place >= len(text) or text[place] != "]":
        line = line_of(min(place, len(text) - 1))
        yield TableRow(
            line, None, "the JSON array is not closed here; the file is cut off or a comma is missing"
        )


def _csv_rows(text: str) -> Iterator[TableRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
            elif len(cells) != len(header):
                yield TableRow(start, None, f"{len(cells)} columns, the first line has {len(header)}")
            else:
                yield TableRow(start, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        yield TableRow(line, None, f"no valid CSV ({error})")


def _row(line: int, content: Any) -> TableRow:
    if isinstance(content, dict):
        return TableRow(line, content)
    return TableRow(line, None, f"a JSON object is expected, this is a {type(content).__name__}")


def _after_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"


def _shorten(text: str) -> str:
    line = text.strip().split("\n")[0]
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."
