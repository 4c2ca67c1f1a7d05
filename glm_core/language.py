"""Which language to speak to the user: Chinese where the locale says so, English elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

Language = Literal["zh", "en"]


def language(environ: Mapping[str, str] = os.environ) -> Language:
    """Return the language that the first of ``GLM_LANG``, ``LC_ALL``, ``LC_MESSAGES`` and ``LANG`` names."""
    for name in ("GLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def format_count(number: int) -> str:
    """Return a large number in short: ``6200000000`` as ``6.2B``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
