"""The limits that docs/security.md states are those of the code."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "security.md").read_text("utf-8")
LIMITS = re.findall(r"^\| (.+?) \| ([\d,]+)[^|]* \| `([\w.]+)` \|$", DOCUMENT.partition("## Limits")[2], re.M)


def test_every_row_of_the_table_is_read() -> None:
    """No row escapes the comparison by its form."""
    rows = [line for line in DOCUMENT.partition("## Limits")[2].splitlines() if line.startswith("| ")]
    assert len(LIMITS) == len(rows) - 2  # its head and the line below
    assert len(LIMITS) >= 30


@pytest.mark.parametrize(("what", "limit", "place"), LIMITS, ids=[place for *_, place in LIMITS])
def test_limit_is_as_documented(what: str, limit: str, place: str) -> None:
    """Whoever changes a number changes the page, and the other way round."""
    assert what
    assert pkgutil.resolve_name(place) == int(limit.replace(",", ""))


def test_everybody_is_named_and_the_page_is_found() -> None:
    """Visitor, clients and authors have a row; README and the architecture lead here."""
    for who in ("Visitor", "without a key", "with the key", "checkpoint", "adapter", "plugin"):
        assert re.search(rf"^\| \*\*[^*]*{who}", DOCUMENT, re.MULTILINE)
    for page in ("README.md", "README.zh.md", "docs/architecture.md"):
        assert re.search(r"\((?:docs/)?security\.md\)", (ROOT / page).read_text("utf-8"))
