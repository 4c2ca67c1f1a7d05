"""Rows of prompt, response and history: what is taken, left out and refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from glm_ptuning._data import Columns, read_column_names, read_rows
from hypothesis import given, settings, strategies as st
from key_words import containing

from glm_core import ConfigError, Message
from glm_core.cleaning import clean_text

COLUMNS = Columns("q", "a")


def lines(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def test_a_row_becomes_a_conversation(tmp_path: Path) -> None:
    """Earlier rounds come before the question, and the source prefix before everything."""
    row = {"q": "又如何", "a": "好", "h": [["你好", "您好"], ["几点", "三点"]]}
    (read,) = read_rows(lines(tmp_path, row), Columns("q", "a", "h")).rows
    assert [message.content for message in read.build_messages()] == [
        "你好",
        "您好",
        "几点",
        "三点",
        "又如何",
    ]
    assert read.build_messages("Q: ")[0] == Message("user", "Q: 你好")
    assert read.build_messages()[-1].role == "user"


def test_history_may_be_absent_or_json_in_a_cell(tmp_path: Path) -> None:
    """A null or empty history is none; a CSV cell holds it as JSON."""
    path = lines(tmp_path, {"q": "1", "a": "2", "h": None}, {"q": "1", "a": "2", "h": []})
    assert [row.history for row in read_rows(path, Columns("q", "a", "h")).rows] == [(), ()]
    table = tmp_path / "rows.csv"
    table.write_text('q,a,h\n1,2,"[[""x"", ""y""]]"\n3,4,\n', "utf-8")
    assert [row.history for row in read_rows(table, Columns("q", "a", "h")).rows] == [(("x", "y"),), ()]


def test_empty_rows_are_left_out_and_named(tmp_path: Path) -> None:
    """Rows with an empty or absent text are left out as in the original, and said with their lines."""
    rows = [{"q": "1", "a": "2"}, {"q": " ", "a": "2"}, {"q": "1", "a": None}]
    table = read_rows(lines(tmp_path, *rows), COLUMNS)
    assert [str(row.place) for row in table.rows] == ["line 1"]
    assert table.format_report().endswith(
        "2 left out because the prompt or the response is empty: lines 2, 3"
    )
    assert len(read_rows(lines(tmp_path, *rows), COLUMNS, keep_empty=True).rows) == 3


@pytest.mark.parametrize("column", ["q", "a", "h"])
def test_half_a_character_is_a_bad_row(tmp_path: Path, column: str) -> None:
    """JSON can write it, no tokenizer can take it; the row and its column are named, and the rest is text."""
    bad = [["\ud800", "x"]] if column == "h" else "x\udfff"
    row = {"q": "1", "a": "2", "h": [["3", "4"]]} | {column: bad}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=f"line 1: column '{column}' .*half a character"):
        read_rows(path, Columns("q", "a", "h"))


TEXTS = st.text(max_size=300).map(lambda text: text.encode("utf-8", "ignore"))


@given(content=st.binary(max_size=300) | TEXTS)
@settings(max_examples=150, deadline=None, derandomize=True)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_any_bytes_are_rows_or_one_printable_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    """Whatever a file holds: nothing but a `ConfigError`, which a terminal can show."""
    path = tmp_path_factory.mktemp("rows") / name
    for start in (b"", b"[", b'{"q": "1", "a": ', b"q,a\n"):
        path.write_bytes(start + content)
        message = ""
        try:
            read_rows(path, COLUMNS)
        except ConfigError as error:
            message = str(error)
        assert clean_text(message) == message


def test_rows_of_an_array_are_named_by_their_number(tmp_path: Path) -> None:
    """An array may stand on one line, so bad and empty rows are told by their number in it."""
    path = tmp_path / "rows.json"
    path.write_text('[{"q": "1", "a": "2"}, {"q": 5, "a": "2"}, {"q": "", "a": "2"}, 7]')
    with pytest.raises(ConfigError, match=r"row 2 \(line 1\): column 'q'[^\x00]*row 4 \(line 1\): "):
        read_rows(path, COLUMNS)
    path.write_text('[{"q": "1", "a": "2"}, {"q": "", "a": "2"}, {"q": "", "a": "2"}]')
    assert read_rows(path, COLUMNS).format_report().endswith(": rows 2, 3")


def test_columns_that_nobody_named_are_told(tmp_path: Path) -> None:
    """Such as the input of an instruction, which stands in a column of its own in many data sets."""
    path = tmp_path / "rows.json"
    path.write_text('[{"q": "a", "a": "b", "input": "c"}, {"q": "a", "a": "b", "id": 3}]')
    report = read_rows(path, COLUMNS).format_report()
    assert report.endswith("columns that are not used: 'input', 'id'")


@given(depth=st.one_of(st.integers(1, 3000), st.just(100_000)))
def test_deep_values_are_one_sentence(depth: int) -> None:
    """Whatever column they are in, and however much of it the parser takes."""
    deep = "[" * depth + '"x"' + "]" * depth
    for row in (f'{{"q": {deep}, "a": "x"}}', f'{{"q": "x", "a": "x", "h": {deep}}}'):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            path.write_text(row)
            with pytest.raises(ConfigError, match=containing("line 1")) as refused:
                read_rows(path, Columns("q", "a", "h" if '"h"' in row else None))
            assert len(str(refused.value)) < 600


def test_bad_lines_are_all_named_before_anything_starts(tmp_path: Path) -> None:
    """Bad JSON, a missing column and a wrong type are one error with each line's number and reason."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "1", "a": "2"}\n{"q": \n{"q": "1"}\n{"q": 5, "a": "2"}\n', "utf-8")
    with pytest.raises(ConfigError) as refused:
        read_rows(path, COLUMNS)
    text = str(refused.value)
    assert "3 of 4 rows cannot be used" in text
    assert "line 2: no valid JSON" in text
    assert "line 3: no column 'a'; it has: 'q'" in text
    assert "line 4: column 'q' holds 5, text is expected" in text


def test_many_bad_lines_are_cut_short(tmp_path: Path) -> None:
    """Ten lines are named, the others counted."""
    with pytest.raises(ConfigError, match="and 15 more"):
        read_rows(lines(tmp_path, *[{"q": 1, "a": "2"}] * 25), COLUMNS)


@pytest.mark.parametrize("history", ["text", [["one"]], [["a", 1]], {"a": "b"}, [1]])
def test_history_of_another_form_is_refused(tmp_path: Path, history: Any) -> None:
    """Only a list of question and answer pairs is a history."""
    path = lines(tmp_path, {"q": "1", "a": "2", "h": history})
    with pytest.raises(ConfigError, match=r'line 1: column .h. holds .* \["question", "answer"\]'):
        read_rows(path, Columns("q", "a", "h"))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    """An empty file and one whose rows are all empty each say so."""
    with pytest.raises(ConfigError, match="empty"):
        read_rows(lines(tmp_path), COLUMNS)
    with pytest.raises(ConfigError, match="all prompts or responses are empty"):
        read_rows(lines(tmp_path, {"q": "", "a": ""}), COLUMNS)


def test_only_so_many_rows_are_taken(tmp_path: Path) -> None:
    """The limit takes the first rows; all are checked nevertheless."""
    path = lines(tmp_path, *[{"q": str(number), "a": "x"} for number in range(5)])
    assert [row.prompt for row in read_rows(path, COLUMNS, limit=2).rows] == ["0", "1"]
    assert read_column_names(path) == ["q", "a"]
