"""Checks of single values that come from outside, with one wording for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from .errors import RequestError


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Refuse what is no whole number in the range; ``None`` says nothing and passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} must be a whole number, got {value!r}")
    if value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise RequestError(f"{name} must be at least {minimum}{upper}, got {value}")


def check_number(name: str, value: object, expected: str, accept: Callable[[float], bool]) -> None:
    """Refuse what is no finite number that ``accept`` takes; ``None`` passes."""
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not accept(value):  # type: ignore[arg-type]
        raise RequestError(f"{name} must be {expected}, got {value!r}")


def check_text(name: str, value: object) -> None:
    """Refuse what is not text, or text that cannot be written as UTF-8.

    Half of a surrogate pair comes from JSON escapes and from command lines that are not UTF-8;
    further in, a tokenizer would fail on it.
    """
    if not isinstance(value, str):
        raise RequestError(f"{name} must be text, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} is no valid Unicode: half a character at position {error.start}; send UTF-8 text"
        ) from error


def check_token_ids(name: str, value: tuple[object, ...]) -> None:
    """Refuse what is no token ids: nothing, or a member that is no whole number from 0 on."""
    if not value:
        raise RequestError(f"{name} holds no token ids; pass at least one")
    for index, member in enumerate(value):
        if isinstance(member, bool) or not isinstance(member, int) or member < 0:
            raise RequestError(f"{name} must hold token ids, got {member!r} at position {index}")


def check_tuple_of(name: str, value: object, kind: type) -> None:
    """Refuse what is no tuple of records of one kind."""
    if not isinstance(value, tuple) or not all(isinstance(member, kind) for member in value):
        raise RequestError(f"{name} must be a tuple of {kind.__name__} records, got {value!r}")
