"""Reading JSON: what two readers could understand differently is refused."""

from __future__ import annotations

import pytest
from glm_frontend_api.errors import ApiError
from glm_frontend_api.strict_json import parse_json


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, null, "x"]}', {"a": [1, 2.5, None, "x"]}),
        ("\ufeff[]".encode(), []),
        ('"你好\\ud83d\\ude00"'.encode(), "你好😀"),
        (b'"\\u0001"', "\x01"),
        (b'"a\\u0000b"', "a\x00b"),  # a model may write it, and its answers are sent back as history
    ],
)
def test_json_is_read(body: bytes, value: object) -> None:
    """Ordinary JSON gives its value; a byte order mark and whole surrogate pairs do no harm."""
    assert parse_json(body) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xfe", "byte 0 cannot be read"),
        (b'{"a": "\xc3("}', "is not UTF-8: byte 7"),
        (b"{", "is not JSON: .* line 1, column 2"),
        (b"", "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": NaN}', "NaN, which is not a JSON number"),
        (b"[-Infinity]", "-Infinity"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' twice"),
        (b'"\\ud800"', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
        (b'"a\x00b"', "is not JSON"),
        (b"9" * 5000, "too many digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_doubtful_json_is_refused(body: bytes, message: str) -> None:
    """Each kind of bad body is a 400 with a sentence that says what is wrong."""
    with pytest.raises(ApiError, match=message) as caught:
        parse_json(body)
    assert caught.value.status_code == 400
