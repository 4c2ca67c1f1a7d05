"""Errors of drivers and compilers, for a sentence."""

from __future__ import annotations


def format_first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message.

    Compilers add pages of source, which a log of one line a notice has no room for.
    """
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
