"""Reading JSON strictly: what two readers could understand differently is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from .errors import invalid


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Refused are, beside what is not JSON: text that is not UTF-8, keys that occur twice, NaN and
    infinities, halves of characters, the character NUL, and nesting that exhausts the parser.

    Raises:
        ApiError: 400, naming what is wrong and where.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start} cannot be read; send UTF-8 text") from None
    try:
        value = json.loads(text, object_pairs_hook=_build_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise invalid("the body is nested too deeply; send plain messages") from None
    except json.JSONDecodeError as error:
        raise invalid(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise invalid("the body has a number of too many digits") from None
    for string in _strings(value):
        _check_text(string)
    return value


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise invalid(f"the body has the key {_quote(twice)} twice; send it once")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise invalid(f"the body has {name}, which is not a JSON number")


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a value, keys included; the parser has bounded the depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def _check_text(text: str) -> None:
    if "\0" in text:
        raise invalid("the body has the character NUL in a text; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(r"the body has half a character (a lone \ud800 to \udfff) in a text") from None


def _quote(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:39] + "~")
