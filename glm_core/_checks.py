"""Checks of single values that come from outside, with one wording for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .errors import RequestError
from .isolation import format_value


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Refuse a value that is not an integer in the range; ``None`` says nothing and passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} must be a whole number, got {format_value(value)}")
    if value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise RequestError(f"{name} must be at least {minimum}{upper}, got {format_value(value)}")


def check_number(name: str, value: object, expected: str, accept: Callable[[float], bool]) -> None:
    """Refuse a value that is not a finite number that ``accept`` takes; ``None`` passes."""
    if value is None:
        return
    try:  # an integer beyond the range of float has no sensible meaning either
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not accept(number):
        raise RequestError(f"{name} must be {expected}, got {format_value(value)}")


def check_text(name: str, value: object) -> None:
    """Refuse a value that is not text, or text that cannot be written as UTF-8.

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
    """Refuse an empty tuple, and members that are not integers of 0 or more."""
    if not value:
        raise RequestError(f"{name} holds no token ids; pass at least one")
    for index, member in enumerate(value):
        if isinstance(member, bool) or not isinstance(member, int) or member < 0:
            raise RequestError(f"{name} must hold token ids, got {format_value(member)} at position {index}")


def to_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Return the members of a list or the like; refuse a value that has none."""
    try:
        return tuple(value)
    except TypeError:
        raise RequestError(f"{name} must be a list, got {format_value(value)}") from None


def check_tuple_of(name: str, value: object, kind: type) -> None:
    """Refuse a value that is not a tuple of records of one kind."""
    if not isinstance(value, tuple) or not all(isinstance(member, kind) for member in value):
        raise RequestError(f"{name} must be a tuple of {kind.__name__} records, got {format_value(value)}")
