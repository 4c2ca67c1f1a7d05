"""Speaking to the user: Chinese where the locale says so, English elsewhere; notices, numbers in short."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import ClassVar, Literal

Language = Literal["zh", "en"]


def get_language(environ: Mapping[str, str] = os.environ) -> Language:
    """Return the language that the first of ``GLM_LANG``, ``LC_ALL``, ``LC_MESSAGES`` and ``LANG`` names."""
    for name in ("GLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


class BilingualTexts:
    """Looks up texts in one language: ``say("saved", path=path)``.

    The subclass sets ``table``: Chinese and English by key, with ``{fields}``.
    """

    table: ClassVar[Mapping[str, tuple[str, str]]]

    def __init__(self, language: Language) -> None:
        self.language: Language = language

    def __call__(self, key: str, **fields: object) -> str:
        """Return the text called ``key`` with its fields filled in."""
        return self.table[key][0 if self.language == "zh" else 1].format(**fields)


def print_notice(line: str) -> None:
    """Print one line to standard error, which leaves standard output to results."""
    with contextlib.suppress(OSError):  # there is no place left to complain of a standard error that is full
        print(f"glm: {line}", file=sys.stderr, flush=True)


def format_count(number: int) -> str:
    """Return a large number in short: ``6200000000`` as ``6.2B``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
