"""The document of promises and the list of checks say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from glm_testing.conformance import Check, list_checks
from glm_testing.driver import FrontendDriver

DOCUMENT = Path(__file__).parents[2] / "docs" / "plugins" / "promises.md"
TEXT = DOCUMENT.read_text("utf-8")


def test_every_promise_has_one_heading_in_the_order_of_the_checks() -> None:
    """A heading's name is the anchor that a failure points to."""
    assert re.findall(r"^### (.+)$", TEXT, re.MULTILINE) == [check.name for check in list_checks()]


@pytest.mark.parametrize("check", list_checks(), ids=lambda check: check.name)
def test_a_promise_is_written_as_it_is_reported(check: Check) -> None:
    """Under its heading stand the very words of the failure, the hooks that it is about, and more."""
    section = TEXT.partition(f"### {check.name}\n")[2].partition("\n#")[0]
    plain = " ".join(section.split())
    assert f"**{check.promise[0].upper()}{check.promise[1:]}.**" in plain
    named = re.match(r"\*\*.*?\*\* \[(.*?)\]", plain)
    hooks = () if named is None else tuple(re.findall(r"`(\w+)`", named[1]))
    assert hooks == (() if check.hooks == ("every plugin",) else check.hooks)
    assert len(plain) > len(check.promise) + 60


def test_a_check_points_to_its_heading() -> None:
    """File and anchor as in a link."""
    assert list_checks()[0].documented == "docs/plugins/promises.md#loads"
    assert DOCUMENT.is_file()


def test_the_driver_in_the_document_is_one() -> None:
    """The example can be pasted."""
    source = TEXT.partition("```python\nfrom glm_testing.driver")[2].partition("```")[0]
    names: dict[str, type[FrontendDriver]] = {}
    exec(f"from glm_testing.driver{source}", names)
    assert issubclass(names["LineDriver"], FrontendDriver)
    assert not names["LineDriver"].__abstractmethods__
