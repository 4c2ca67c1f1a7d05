"""Reading JSON strictly: what two readers could understand differently is refused, and so is too much."""

from __future__ import annotations

import codecs
import json
from typing import Any, NoReturn

from .errors import build_invalid_error

# A megabyte can hold half a million values, and each costs far more to check than a byte does. Real
# conversations, with the schemas of 128 tools, have a few thousand.
MAX_VALUES = 100_000
# Beyond Python's own limit of depth, other code that walks through the value would fail in its own ways.
MAX_DEPTH = 100
# Each unknown key is an error of its own to the validation.
MAX_KEYS = 1000


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Refused are, beside what is not JSON: text that is not UTF-8, keys that occur twice, NaN and
    infinities, halves of characters, and more values, keys or levels than any real request has.

    Raises:
        ApiError: 400, naming what is wrong and where.
    """
    _check_number_of_values(body)  # first, since parsing takes memory for each of them
    try:
        # Not the codec utf-8-sig: Python imports it when it is first used, which takes a file.
        text = body.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise build_invalid_error(
            f"the body is not UTF-8: byte {error.start} cannot be read; send UTF-8 text"
        ) from None
    try:
        value = json.loads(text, object_pairs_hook=_build_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise _build_depth_error() from None
    except json.JSONDecodeError as error:
        raise build_invalid_error(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise build_invalid_error("the body has a number of too many digits") from None
    _check_values(value)
    return value


def _check_number_of_values(body: bytes) -> None:
    """Refuse a text with too many values, counted by what stands between them.

    Only methods of bytes: they take a millisecond or two where a loop over the text would take a second.
    """
    marks = (b",", b"[", b"{")
    if sum(body.count(mark) for mark in marks) <= MAX_VALUES:
        return
    # What stands in strings does not count: without escaped quotes, every second part is outside of them.
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    number = sum(outside.count(mark) for mark in marks)
    if number > MAX_VALUES:
        raise build_invalid_error(
            f"the body has about {number} values (numbers, texts, lists, objects); "
            f"this server reads at most {MAX_VALUES}"
        )


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise build_invalid_error(f"the body has the key {_quote(twice)} twice; send it once")
    if len(value) > MAX_KEYS:
        raise build_invalid_error(
            f"the body has an object with {len(value)} keys; this server reads at most {MAX_KEYS}"
        )
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise build_invalid_error(f"the body has {name}, which is not a JSON number")


def _check_values(value: Any) -> None:
    """Look at every text of a value, keys included, and at how deep it goes."""
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            _check_text(value)
            continue
        if not isinstance(value, (dict, list)):
            continue
        if depth > MAX_DEPTH:
            raise _build_depth_error()
        if isinstance(value, dict):
            waiting += [(key, depth) for key in value]
            value = value.values()
        waiting += [(part, depth + 1) for part in value]


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise build_invalid_error(
            r"the body has half a character (a lone \ud800 to \udfff) in a text"
        ) from None


def _build_depth_error() -> Exception:
    return build_invalid_error(
        f"the body is nested too deeply; this server reads lists and objects up to {MAX_DEPTH} levels deep"
    )


def _quote(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:39] + "~")
