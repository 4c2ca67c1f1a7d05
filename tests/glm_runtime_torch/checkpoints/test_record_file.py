"""A typed reading says which key of which file holds what, and what was expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from glm_runtime_torch.checkpoints.record_file import (
    FieldError,
    FileRecord,
    limit_integer,
    limit_number,
    parse_record,
    read_record,
)
from hypothesis import given, strategies as st

from glm_core import CheckpointError


class Inner(FileRecord):
    """A record inside another."""

    factor: Annotated[float, limit_number(1, 8)] = 1


class Example(FileRecord):
    """A field of every sort."""

    layers: Annotated[int, limit_integer(1, 1024)]
    epsilon: Annotated[float, limit_number(0, 1)] = 1e-5
    length: Annotated[int, limit_integer(1, 64)] | None = None
    tied: bool = False
    name: str = ""
    kind: Literal["linear", "yarn"] = "linear"
    scaling: Inner | None = None
    places: dict[str, str] = {}  # noqa: RUF012 - pydantic copies defaults


@pytest.mark.parametrize(
    ("content", "clause"),
    [
        ({"layers": "28"}, 'layers is "28", a whole number from 1 to 1,024 is expected'),
        ({"layers": 2.5}, "layers is 2.5, a whole number"),
        ({"layers": 28.0}, "layers is 28.0, a whole number"),
        ({"layers": True}, "layers is true, a whole number"),
        ({"layers": None}, "layers is null, a whole number"),
        ({"layers": 0}, "layers is 0, a whole number from 1"),
        ({"layers": 10**90}, "layers is 1000"),
        ({}, "layers is missing, a whole number from 1 to 1,024 is expected"),
        ({"layers": 1, "epsilon": "x"}, 'epsilon is "x", a number from 0 to 1 is expected'),
        ({"layers": 1, "epsilon": float("nan")}, "epsilon is NaN, a number"),
        ({"layers": 1, "epsilon": float("inf")}, "epsilon is Infinity, a number"),
        ({"layers": 1, "length": 65}, "length is 65, a whole number from 1 to 64 or null is expected"),
        ({"layers": 1, "tied": 1}, "tied is 1, true or false is expected"),
        ({"layers": 1, "name": ["x"]}, 'name is ["x"], text is expected'),
        ({"layers": 1, "kind": "yarm"}, 'kind is "yarm", one of "linear", "yarn" is expected'),
        ({"layers": 1, "scaling": []}, "scaling is [], a JSON object or null is expected"),
        ({"layers": 1, "scaling": {"factor": 9}}, "scaling.factor is 9, a number from 1 to 8 is expected"),
        ({"layers": 1, "places": {"a": 3}}, "places.a is 3, text is expected"),
        ({"layers": 0, "tied": 3}, "(and 1 more)"),
        ({"layers": "\x1b[31m\u202e"}, r'layers is "\u001b[31m\u202e"'),
    ],
)
def test_clause_names_key_value_and_expectation(content: dict[str, Any], clause: str) -> None:
    """Values are shown as JSON writes them, so nothing in them steers a screen."""
    with pytest.raises(FieldError) as caught:
        parse_record(Example, content)
    assert clause in str(caught.value)


def test_file_is_named_and_unknown_keys_are_not_looked_at(tmp_path: Path) -> None:
    """What no field names may hold anything; the error of a file begins with its path."""
    path = tmp_path / "x.json"
    path.write_text('{"layers": 3, "epsilon": 0, "other": {"deep": [1e999]}}')
    assert read_record(path, Example).layers == 3
    path.write_text('{"layers": -1}')
    with pytest.raises(CheckpointError, match=r"x\.json: layers is -1"):
        read_record(path, Example)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(Example.model_fields)), JSON))
def test_any_value_in_any_key_is_taken_or_named(content: dict[str, Any]) -> None:
    """Whatever JSON holds, the result is a record or a short clause that names one of the keys."""
    try:
        record = parse_record(Example, content)
    except FieldError as error:
        said = str(error)
    else:
        said = ""
        assert json.loads(json.dumps(content))["layers"] == record.layers
    assert not said or any(key in said for key in Example.model_fields)
    assert len(said) < 300
    assert said.replace("…", "").isascii()
