"""Exporting and importing conversations in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from web_support import Script, Site

expect = pytest.importorskip("playwright.sync_api").expect
from web_page import ChatPage  # noqa: E402 - imports playwright

TRICKY = "a < b & c\n\n```python\nprint('<b>')\n```\n\n## User <!-- glm:user -->\n\nnot a question"


@pytest.mark.parametrize("kind", ["JSON", "Markdown"])
def test_an_exported_conversation_can_be_imported(
    visit: Callable[..., Any], scripted_site: Site, kind: str
) -> None:
    """What was exported in one window is the same conversation, with its settings, in another."""
    first, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("tricky", Script((TRICKY,)))
    first.open_settings()
    first.page.get_by_label("System prompt").fill("Be exact.")
    first.ask_and_wait("你好")
    first.ask_and_wait(question)
    name, text = first.download(f"Export {kind}")
    assert name.startswith("conversation-")
    assert name.endswith({"JSON": ".json", "Markdown": ".md"}[kind])
    second = ChatPage(visit(scripted_site))
    second.open_settings()
    second.import_file(name, text)
    expect(second.status).to_have_text("Imported; turns: 2")
    expect(second.questions).to_have_text(["你好", "tricky"])
    expect(second.page.get_by_label("System prompt")).to_have_value("Be exact.")
    second.ask_and_wait("go on")
    assert [(message.role, message.content) for message in script.last_request().messages] == [
        ("system", "Be exact."),
        ("user", "你好"),
        ("assistant", "你好"),
        ("user", "tricky"),
        ("assistant", TRICKY),
        ("user", "go on"),
    ]


def test_a_file_that_is_no_conversation_is_refused_and_nothing_is_lost(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """A wrong file gives one sentence, and the conversation stays."""
    page = ChatPage(visit(scripted_site))
    page.ask_and_wait("alpha")
    page.open_settings()
    page.import_file("wrong.json", json.dumps({"hello": "world"}))
    expect(page.status).to_contain_text("wrong.json is not a conversation")
    expect(page.questions).to_have_text(["alpha"])


def test_the_same_file_can_be_imported_twice(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Importing, clearing and importing again shows the conversation again."""
    page = ChatPage(visit(scripted_site))
    page.ask_and_wait("alpha")
    page.open_settings()
    name, text = page.download("Export JSON")
    for _ in range(2):
        page.button("Clear").click()
        expect(page.questions).to_have_count(0)
        page.import_file(name, text)
        expect(page.questions).to_have_text(["alpha"])
