"""Which language to speak to the user: Chinese where the locale says so, English elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

Language = Literal["zh", "en"]


def language(environ: Mapping[str, str] = os.environ) -> Language:
    """The first of ``GLM_LANG``, ``LC_ALL``, ``LC_MESSAGES`` and ``LANG`` that is set decides."""
    for name in ("GLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"
