"""Several windows at once, and windows that close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from web_support import Script, Site, site

expect = pytest.importorskip("playwright.sync_api").expect
from web_page import ChatPage  # noqa: E402 - imports playwright


def test_two_windows_never_see_each_others_words(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Two visitors chat at the same time: each sees, sends and exports their own words only."""
    one, two = ChatPage(visit(scripted_site)), ChatPage(visit(scripted_site))
    script = scripted_site.script
    slow = script.script("the secret of one", Script(("one's ", "answer"), gated=True))
    one.ask(slow)
    script.release(slow)
    expect(one.answers.last).to_have_text("one's")
    two.ask_and_wait("a word of two")
    assert [message.content for message in script.last_request().messages] == ["a word of two"]
    script.release(slow)
    expect(one.finished).to_have_text(["one's answer"])
    expect(one.questions).to_have_text(["the secret of one"])
    expect(two.questions).to_have_text(["a word of two"])
    two.open_settings()
    _, exported = two.download("Export JSON")
    assert "a word of two" in exported
    assert "one" not in exported
    two.page.get_by_label("System prompt").fill("Two's own instruction.")
    one.ask_and_wait("who am I?")
    assert "Two's own instruction." not in str(script.last_request())


def test_two_windows_of_one_browser_are_apart(visit: Callable[..., Any], scripted_site: Site) -> None:
    """A second tab of the same browser begins a conversation of its own."""
    first = ChatPage(visit(scripted_site))
    first.ask_and_wait("in the first tab")
    tab = first.page.context.new_page()
    tab.goto(scripted_site.url)
    second = ChatPage(tab)
    second.ask_and_wait("in the second tab")
    expect(second.questions).to_have_text(["in the second tab"])
    expect(first.questions).to_have_text(["in the first tab"])


def test_many_windows_stream_at_once(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Four answers come at the same time; none waits for another."""
    script = scripted_site.script
    windows = [ChatPage(visit(scripted_site)) for _ in range(4)]
    questions = [script.script(f"stream {number}", Script(("a", "b"), gated=True)) for number in range(4)]
    for window, question in zip(windows, questions, strict=True):
        window.ask(question)
    for window, question in zip(windows, questions, strict=True):
        script.release(question)
        expect(window.answers.last).to_have_text("a")
    for window, question in zip(windows, questions, strict=True):
        script.release(question)
        expect(window.finished).to_have_text(["ab"])


def test_closing_the_window_cancels_the_answer(visit: Callable[..., Any], scripted_site: Site) -> None:
    """When a visitor leaves, the runtime's stream is closed, though nobody pressed stop."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("I am leaving", Script(("hm ", "never"), gated=True))
    page.ask(question)
    script.release(question)
    expect(page.answers.last).to_have_text("hm")
    page.page.close()
    assert script.was_closed(question)


def test_a_password_keeps_strangers_out(browser: Any) -> None:
    """With --auth the page asks for a name and a password; only the right ones let a visitor in."""
    with site(options={"auth": "ann:s3cret"}) as guarded:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.goto(guarded.url)
        assert context.request.get(f"{guarded.url}config").status == 401
        page.get_by_label("username").fill("ann")
        page.get_by_label("password").fill("wrong")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_text("Incorrect Credentials")).to_be_visible()
        page.get_by_label("username").fill("ann")
        page.get_by_label("password").fill("s3cret")
        page.get_by_role("button", name="Login").click()
        chat = ChatPage(page)
        chat.ask_and_wait("let me in")
        expect(chat.finished).to_have_text(["let me in"])
        context.close()


def test_an_adapter_can_be_chosen(browser: Any) -> None:
    """With two adapters loaded the visitor chooses one, or the base model, for each answer."""
    with site(adapters=("law", "poems")) as adapted:
        page = ChatPage(browser.new_page(locale="en-GB"))
        page.page.goto(adapted.url)
        page.ask_and_wait("base")
        assert adapted.script.last_request().adapter is None
        page.open_settings()
        page.page.get_by_label("Adapter").click()
        page.page.get_by_role("option", name="poems").click()
        page.ask_and_wait("a poem")
        assert adapted.script.last_request().adapter == "poems"
        page.button("Back to the model's defaults").click()
        expect(page.page.get_by_label("Adapter")).to_have_value("Base model")
        page.page.close()


def test_the_menu_follows_adapters_that_come_and_go(browser: Any) -> None:
    """Without a reload: new ones can be chosen; a removed one is named, and the question is kept."""
    with site() as adapted:
        page = ChatPage(browser.new_page(locale="en-GB"))
        page.page.goto(adapted.url)
        page.ask_and_wait("before")
        adapted.script.set_adapters("law")
        page.open_settings()
        menu = page.page.get_by_label("Adapter")
        expect(menu).to_have_value("Base model")
        menu.click()
        page.page.get_by_role("option", name="law").click()
        page.ask_and_wait("with law")
        assert adapted.script.last_request().adapter == "law"
        adapted.script.set_adapters("law", "poems")
        page.ask_and_wait("with law again")
        menu.click()
        expect(page.page.get_by_role("option")).to_contain_text(["Base model", "law", "poems"])
        page.page.keyboard.press("Escape")
        adapted.script.set_adapters("poems")
        page.ask("where is law?")
        expect(page.status).to_have_text(
            "Adapter law was removed, and the base model is chosen now; send again to have it answer"
        )
        expect(page.box).to_have_value("where is law?")
        expect(menu).to_have_value("Base model")
        page.send("where is law?")
        expect(page.finished.last).to_have_text("where is law?")
        assert adapted.script.last_request().adapter is None
        page.page.close()


def test_the_menu_says_at_a_look_that_the_chosen_adapter_went(browser: Any) -> None:
    """The adapter of the start is chosen and goes; who opens the settings is told, in their language."""
    with site(adapters=("law",)) as adapted:
        page = ChatPage(browser.new_page(locale="zh-CN"))
        page.page.goto(adapted.url)
        page.ask_and_wait("first")
        assert adapted.script.last_request().adapter == "law"
        adapted.script.set_adapters("poems")
        page.open_settings()
        expect(page.status).to_have_text("适配器 law 已被移除，现在选用基础模型")
        expect(page.page.get_by_label("适配器")).to_have_value("基础模型")
        page.page.locator("#reset").click()
        page.ask_and_wait("second")
        assert adapted.script.last_request().adapter is None
        page.page.close()
