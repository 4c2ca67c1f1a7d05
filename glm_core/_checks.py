"""Checks of single values that come from outside, with one wording for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from .errors import RequestError

MAX_SHOWN = 60  # characters; a number of 400 digits is wrong as a whole


def show_value(value: object) -> str:
    """Return a value for the sentence of an error; a long one is cut."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def is_finite(value: object) -> bool:
    """Return whether a value is a number, no truth value, and not beyond what a float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Refuse what is no whole number in the range; ``None`` says nothing and passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} must be a whole number, got {show_value(value)}")
    if value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise RequestError(f"{name} must be at least {minimum}{upper}, got {show_value(value)}")


def check_number(name: str, value: object, expected: str, accept: Callable[[float], bool]) -> None:
    """Refuse what is no finite number that ``accept`` takes; ``None`` passes."""
    if value is None:
        return
    if not is_finite(value) or not accept(value):  # type: ignore[arg-type]
        raise RequestError(f"{name} must be {expected}, got {show_value(value)}")


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
