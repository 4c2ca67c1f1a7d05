"""Rows of JSON, JSON Lines and CSV files, and the line numbers of bad ones."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from glm_ptuning._table_files import read_table
from hypothesis import given, strategies as st

from glm_core import ConfigError

ROWS = [{"q": "你好", "a": "世界\n第二行"}, {"q": "x, y", "a": '"quoted"'}]


def file(tmp_path: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding, newline="")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", json.dumps(ROWS, ensure_ascii=False)),
        ("rows.json", json.dumps(ROWS, ensure_ascii=False, indent=2)),
        ("rows.json", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("rows.jsonl", "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n\r\n"),
        ("rows.csv", 'q,a\r\n你好,"世界\n第二行"\r\n"x, y","""quoted"""\r\n'),
    ],
    ids=["array", "indented-array", "lines-called-json", "lines-crlf", "csv"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    """An array, JSON Lines under either ending and CSV hold the same rows, also after a byte order mark."""
    found = list(read_table(file(tmp_path, name, text, encoding)))
    assert [row.content for row in found] == ROWS
    assert not any(row.problem for row in found)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.jsonl", '{"q": 1}\n\n{"q": 2}\n', ["line 1", "line 3"]),
        ("a.json", '[\n {"q":\n 1},\n\n {"q": 2}\n]', ["row 1 (line 2)", "row 2 (line 5)"]),
        ("a.json", '[{"q": 1}, 5, {"q": 2}]', ["row 1 (line 1)", "row 2 (line 1)", "row 3 (line 1)"]),
        ("a.csv", 'q\n"one\ntwo"\nthree\n', ["line 2", "line 4"]),
    ],
)
def test_places_are_counted_where_rows_begin(tmp_path: Path, name: str, text: str, places: list[str]) -> None:
    """Empty lines, rows of several lines and brackets shift nothing; rows of an array have their number."""
    assert [str(row.place) for row in read_table(file(tmp_path, name, text))] == places


@pytest.mark.parametrize(
    ("name", "text", "place", "problem"),
    [
        ("a.jsonl", '{"q": 1}\n{"q": \n{"q": 2}', "line 2", "no valid JSON"),
        ("a.jsonl", '{"q": 1}\n[1, 2]', "line 2", "a JSON object is expected, this is a list"),
        ("a.json", '[{"q": 1},\n {"q" 2}]', "row 2 (line 2)", "no valid JSON"),
        ("a.json", '[{"q": 1},\n {"q": 2}\n', "row 3 (line 2)", "not closed"),
        ("a.json", '[{"q": 1}\n {"q": 2}]', "row 2 (line 2)", "a comma is missing"),
        ("a.json", '[{"q": 1},\n "text"]', "row 2 (line 2)", "this is a str"),
        ("a.csv", "q,a\n1,2\n3\n", "line 3", "1 columns, the first line has 2"),
        ("a.csv", 'q,a\n1,"2\n', "line 2", "no valid CSV"),
        ("a.csv", "q,a,q\n1,2,3\n", "line 1", "same name: 'q'"),
        ("a.jsonl", '{"q": 1}\n{"q": 1, "a": 2, "q": 3}\n', "line 2", "a key stands twice"),
        ("a.json", '[{"q": 1, "q": 1}]', "row 1 (line 1)", "a key stands twice"),
        ("a.jsonl", '{"q": ' + "9" * 5000 + "}", "line 1", "too many digits"),
        ("a.json", '[{"q": ' + "9" * 5000 + "}]", "row 1 (line 1)", "too many digits"),
        ("a.json", '[{"q": 1}]\n"text"', "row 2 (line 2)", "behind the array"),
        ("a.json", '[{"q": 1}],\n[{"q": 2}]', "row 2 (line 1)", "behind the array"),
        ("a.json", '[{"q": 1}]\n[{"q": 2}\n', "row 3 (line 2)", "not closed"),
        ("a.json", '[{"q": 1}]]', "row 2 (line 1)", "behind the array"),
    ],
)
def test_a_bad_row_is_named_by_its_place(
    tmp_path: Path, name: str, text: str, place: str, problem: str
) -> None:
    """Whatever is wrong is reported with the place where it is."""
    bad = [row for row in read_table(file(tmp_path, name, text)) if row.content is None]
    assert [str(row.place) for row in bad] == [place]
    assert problem in bad[0].problem


CHUNKS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=3)), min_size=1, max_size=6)


@given(chunks=CHUNKS, glue=st.sampled_from(["\n", "", " ", "\r\n\n"]), indent=st.sampled_from([None, 2]))
def test_no_row_of_a_file_that_was_added_to_is_lost(
    chunks: list[tuple[bool, list[int]]], glue: str, indent: int | None
) -> None:
    """Arrays behind arrays, on lines of their own or not, and objects behind arrays: all rows, in order."""
    parts = ["[]"]  # whatever follows, the file begins with an array
    for is_array, numbers in chunks:
        rows = [{"q": number} for number in numbers]
        parts += [json.dumps(rows, indent=indent)] if is_array else [json.dumps(row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        found = list(read_table(file(Path(folder), "a.json", glue.join(parts))))
    assert [row.content for row in found] == [{"q": number} for _, numbers in chunks for number in numbers]


def test_a_long_cell_is_a_cell(tmp_path: Path) -> None:
    """More than the csv library takes by default."""
    text = "x" * 200_000
    (found,) = read_table(file(tmp_path, "a.csv", f"q,a\n{text},y\n"))
    assert found.content == {"q": text, "a": "y"}


def test_deep_nesting_is_a_bad_row_and_no_crash(tmp_path: Path) -> None:
    """A line that would exhaust the parser's stack is refused like any other."""
    (found,) = read_table(file(tmp_path, "a.jsonl", "{" + '"a":[' * 1 + "[" * 200_000))
    assert "nested too deeply" in found.problem


def test_other_encodings_and_missing_files_are_refused(tmp_path: Path) -> None:
    """A file in another encoding is named with the line; one that is not there with the reason."""
    path = tmp_path / "gbk.jsonl"
    path.write_bytes(b'{"q": "a"}\n' + '{"q": "你好"}'.encode("gbk"))
    with pytest.raises(ConfigError, match=r"no UTF-8 text: line 2 .*save the file as UTF-8"):
        list(read_table(path))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        list(read_table(tmp_path / "absent.json"))


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_what_never_ends_or_never_begins_is_refused(tmp_path: Path, ending: str) -> None:
    """A pipe would wait for ever, a device never end, and a file of 30 GB of holes fill the memory."""
    pipe, device, holes = (tmp_path / f"{name}{ending}" for name in ("pipe", "device", "holes"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    with holes.open("wb") as content:
        content.truncate(30 * 2**30)
    for path in (pipe, device, holes):
        with pytest.raises(ConfigError, match=path.name):
            read_table(path)
