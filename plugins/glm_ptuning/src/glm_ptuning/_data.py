"""Rows of prompt, answer and history, checked before anything is trained on or asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_core import Message
from glm_core.cleaning import clean_text
from glm_core.errors import ConfigError
from glm_core.records import build_messages

from ._table_files import RowPlace, TableRow, read_table

MAX_NAMED = 10  # enough to see what kind of fault it is; a wrong column makes every row of a file bad


@dataclass(frozen=True)
class Columns:
    """Which columns of a file hold what.

    Attributes:
        prompt: the question.
        response: the answer to learn.
        history: earlier rounds; ``None`` = there are none.
    """

    prompt: str
    response: str
    history: str | None = None


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        place: where it begins in its file.
        prompt: the question.
        response: the answer.
        history: earlier questions and answers.
    """

    place: RowPlace
    prompt: str
    response: str
    history: tuple[tuple[str, str], ...] = ()

    def build_messages(self, source_prefix: str = "") -> list[Message]:
        """Return the conversation that ends in the question; ``source_prefix`` stands before all of it."""
        past, prompt = list(self.history), self.prompt
        if past:
            past[0] = (source_prefix + past[0][0], past[0][1])
        else:
            prompt = source_prefix + prompt
        return list(build_messages(past, prompt))


@dataclass(frozen=True)
class Table:
    """What is used of a file.

    Attributes:
        path: the file.
        rows: in its order.
        empty: places of rows that are left out because their prompt or response is empty.
        unused: columns that are not among those asked for.
    """

    path: Path
    rows: tuple[Row, ...]
    empty: tuple[RowPlace, ...] = ()
    unused: tuple[str, ...] = ()

    def format_report(self) -> str:
        """Return one line for people: how many rows, and which are left out."""
        text = f"{self.path.name}: {len(self.rows)} rows"
        if self.empty:
            text += (
                f"; {len(self.empty)} left out because the prompt or the response is empty: "
                f"{format_places(self.empty)}"
            )
        if self.unused:
            text += f"; columns that are not used: {_list_columns(self.unused)}"
        return text


def read_rows(path: Path, columns: Columns, *, limit: int | None = None, keep_empty: bool = False) -> Table:
    """Return the rows of a JSON, JSON Lines or CSV file.

    Args:
        path: the file.
        columns: which columns to take.
        limit: take that many rows at most.
        keep_empty: also take rows whose prompt or response is empty.

    Raises:
        ConfigError: the file cannot be read, holds nothing, or holds bad rows; names each by its place.
    """
    rows: list[Row] = []
    empty: list[RowPlace] = []
    problems: list[str] = []
    unused: dict[str, None] = {}  # a set that keeps the order
    for found in read_table(path):
        unused |= dict.fromkeys(found.content or ())
        row, problem = _parse_row(found, columns)
        if row is None:
            problems.append(f"{found.place}: {problem}")
        elif keep_empty or (row.prompt.strip() and row.response.strip()):
            rows.append(row)
        else:
            empty.append(row.place)
    if problems:
        more = f"\n  and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise ConfigError(
            f"{path}: {len(problems)} of {len(rows) + len(empty) + len(problems)} rows cannot be used. "
            "Correct or delete them:\n  " + "\n  ".join(problems[:MAX_NAMED]) + more
        )
    if not rows:
        reason = "all prompts or responses are empty" if empty else "it is empty"
        raise ConfigError(f"{path} has no row to use: {reason}")
    used = {columns.prompt, columns.response, columns.history}
    return Table(path, tuple(rows[:limit]), tuple(empty), tuple(name for name in unused if name not in used))


def _parse_row(found: TableRow, columns: Columns) -> tuple[Row | None, str]:
    """Return the row, or ``None`` and why there is none."""
    content = found.content
    if content is None:
        return None, found.problem
    texts: list[str] = []
    for name in (columns.prompt, columns.response):
        if name not in content:
            return None, f"no column {name!r}; it has: {_list_columns(content)}"
        value = content[name]
        if value is not None and not isinstance(value, str):
            return None, f"column {name!r} holds {_shorten_json(value)}, text is expected"
        if not _is_unicode(value):
            return None, f"column {name!r} {_HALF_CHARACTER}"
        texts.append(value or "")
    history: tuple[tuple[str, str], ...] = ()
    if columns.history is not None:
        if columns.history not in content:
            return None, f"no column {columns.history!r}; it has: {_list_columns(content)}"
        rounds = _parse_rounds(content[columns.history])
        if rounds is None:
            return None, (
                f"column {columns.history!r} holds {_shorten_json(content[columns.history])}, a list of "
                '["question", "answer"] pairs is expected'
            )
        if not all(_is_unicode(part) for pair in rounds for part in pair):
            return None, f"column {columns.history!r} {_HALF_CHARACTER}"
        history = rounds
    return Row(found.place, texts[0], texts[1], history), ""


def _parse_rounds(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Return earlier rounds, which a CSV file has as JSON in a cell; ``None`` for any other form."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list):
        return () if value is None else None
    pairs = [tuple(pair) for pair in value if isinstance(pair, list) and len(pair) == 2]
    if len(pairs) != len(value) or not all(isinstance(part, str) for pair in pairs for part in pair):
        return None
    return tuple((question, answer) for question, answer in pairs)


# What JSON can write (\ud800) and no tokenizer can take: half of a pair that is one character in UTF-16.
_HALF_CHARACTER = "holds half a character, which is no text; correct how the file was written"


def _is_unicode(text: str | None) -> bool:
    return text is None or text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _shorten_json(value: Any) -> str:
    text = clean_text(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 60 else f"{text[:60]}..."


def _list_columns(names: Iterable[str]) -> str:
    """Return the columns of a row, at most ten, each cut: a file may have thousands."""
    listed = [repr(name if len(name) <= 60 else f"{name[:60]}...") for name in names]
    return ", ".join(listed[:MAX_NAMED]) + (", ..." if len(listed) > MAX_NAMED else "")


def format_places(places: Sequence[RowPlace]) -> str:
    """Return "line 3" or "lines 3, 5, ...", or "rows ..." for an array; at most ten places of one file."""
    unit = "line" if places[0].row is None else "row"
    listed = ", ".join(str(place.row or place.line) for place in places[:MAX_NAMED])
    more = ", ..." if len(places) > MAX_NAMED else ""
    return f"{unit}{'s' if len(places) > 1 else ''} {listed}{more}"


def read_column_names(path: Path) -> list[str]:
    """Return the columns of a file's first good row, for messages."""
    rows: Iterable[TableRow] = read_table(path)
    return next((list(found.content) for found in rows if found.content is not None), [])
