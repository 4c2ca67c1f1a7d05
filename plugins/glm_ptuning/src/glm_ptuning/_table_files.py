"""Reading rows from JSON, JSON Lines and CSV files, each with its place in the file, for error messages."""

from __future__ import annotations

import bisect
import csv
import io
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_core.cleaning import clean_text
from glm_core.errors import ConfigError

CSV_ENDINGS = (".csv",)
MAX_SHOWN_NAMES = 10
MAX_SHOWN = 60  # characters of a bad row in a message: it still fits one line of a terminal
MAX_FILE_BYTES = 2**30  # rows are held in memory, at several times that; published sets have some 100 MB


@dataclass(frozen=True)
class RowPlace:
    """Where a row begins, as a person finds it.

    Attributes:
        line: number of its first line in the file, from 1.
        row: number of the row, from 1, in a JSON array; ``None`` elsewhere. A whole array often stands on
            one line, so its rows cannot be told apart by the line.
    """

    line: int
    row: int | None = None

    def __str__(self) -> str:
        return f"line {self.line}" if self.row is None else f"row {self.row} (line {self.line})"


@dataclass(frozen=True)
class TableRow:
    """One row of a file, usable or not.

    Attributes:
        place: where it begins.
        content: the row; ``None`` if there is none.
        problem: why it is no row, or empty.
    """

    place: RowPlace
    content: dict[str, Any] | None
    problem: str = ""


class _RepeatingRow(dict[str, Any]):
    """An object in which a key stands twice; JSON keeps the last value, so another one would be lost."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    return content if len(content) == len(pairs) else _RepeatingRow(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_build_object)


def read_table(path: Path) -> Iterator[TableRow]:
    """Yield every row of a file, bad ones with what is wrong with them.

    A file whose first character is ``[`` holds JSON arrays; others are JSON Lines, or CSV by their ending.

    Raises:
        ConfigError: the file cannot be read, or is no UTF-8 text.
    """
    text = _read_text(path)
    # By its first character, not by its ending: many data sets have JSON Lines in a file called .json.
    if path.suffix.lower() in CSV_ENDINGS:
        return _parse_csv(text)
    return _parse_json_arrays(text) if text.lstrip().startswith("[") else _parse_json_lines(text)


def _read_text(path: Path) -> str:
    try:
        facts = path.stat()
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
            # It is read twice, a pipe gives its rows once or never, and a device may never end.
            raise ConfigError(f"{path} is a pipe, socket or device; write the rows into a file first")
        if facts.st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{path} has {facts.st_size:,} bytes; {MAX_FILE_BYTES:,} at most are read. Take a part of it."
            )
        return path.read_text("utf-8-sig")  # because spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path} is no UTF-8 text: line {line} holds the byte 0x{error.object[error.start]:02x}; "
            "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse_json_lines(text: str) -> Iterator[TableRow]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at U+2028
        if not line.strip():
            continue
        try:
            yield _check_row(RowPlace(number), _DECODER.decode(line))
        except (ValueError, RecursionError) as error:
            yield TableRow(
                RowPlace(number), None, f"no valid JSON ({_explain_error(error)}): {_shorten(line)}"
            )


def _parse_json_arrays(text: str) -> Iterator[TableRow]:
    """Yield the rows of a file that begins with an array; more arrays, or objects, may stand behind it.

    Programs append to their files, so the first array need not be all that is there.
    """
    starts = [0, *(place + 1 for place, character in enumerate(text) if character == "\n")]

    def locate(offset: int) -> RowPlace:
        return RowPlace(bisect.bisect_right(starts, min(offset, len(text) - 1)), number)

    number, is_inside = 1, False
    offset = _skip_blanks(text, 0)
    while offset < len(text):
        if text[offset] == ("]" if is_inside else "["):
            is_inside, offset = not is_inside, _skip_blanks(text, offset + 1)
            continue
        if not is_inside and text[offset] != "{":
            problem = f"an array or an object is expected behind the array: {_shorten(text[offset:])}"
            yield TableRow(locate(offset), None, problem)
            return
        try:
            content, end = _DECODER.raw_decode(text, offset)
        except (ValueError, RecursionError) as error:
            bad = error.pos if isinstance(error, json.JSONDecodeError) else offset
            yield TableRow(
                locate(bad), None, f"no valid JSON ({_explain_error(error)}): {_shorten(text[offset:])}"
            )
            return  # because nothing tells where the next row begins
        yield _check_row(locate(offset), content)
        number += 1
        offset = _skip_blanks(text, end)
        if is_inside and text[offset : offset + 1] == ",":  # some programs write one before the end, too
            offset = _skip_blanks(text, offset + 1)
        elif is_inside and text[offset : offset + 1] != "]":
            break
    if is_inside:
        yield TableRow(
            locate(offset),
            None,
            "the JSON array is not closed here; the file is cut off or a comma is missing",
        )


def _parse_csv(text: str) -> Iterator[TableRow]:
    # The library's limit of 131,072 characters a cell is for programs that read what strangers send.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1  # of the next row's start; the reader's own line_num is that of a row's end
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    named = ", ".join(map(repr, twice[:MAX_SHOWN_NAMES]))
                    yield TableRow(RowPlace(start), None, f"several columns have the same name: {named}")
                    return  # because a row would hold only the last of them
            elif len(cells) != len(header):
                yield TableRow(
                    RowPlace(start), None, f"{len(cells)} columns, the first line has {len(header)}"
                )
            else:
                yield TableRow(RowPlace(start), dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        yield TableRow(RowPlace(line), None, f"no valid CSV ({error})")


def _check_row(place: RowPlace, content: Any) -> TableRow:
    if isinstance(content, _RepeatingRow):
        return TableRow(place, None, f"a key stands twice in it; it has: {_shorten(', '.join(content))}")
    if isinstance(content, dict):
        return TableRow(place, content)
    return TableRow(place, None, f"a JSON object is expected, this is a {type(content).__name__}")


def _skip_blanks(text: str, offset: int) -> int:
    while offset < len(text) and text[offset] in " \t\r\n":  # JSON's own blanks; str.isspace has more
        offset += 1
    return offset


def _explain_error(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # Python reads no number of more than 4,300 digits, and says so with a plain ValueError.
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def _shorten(text: str) -> str:
    line = clean_text(text.strip().split("\n")[0])
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."
