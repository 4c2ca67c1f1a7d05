"""How the page presents itself: languages, light and dark, a phone, the keyboard, assistive technology."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_support import Script, Site

expect = pytest.importorskip("playwright.sync_api").expect
from web_page import ChatPage  # noqa: E402 - imports playwright

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
LONG = (
    "# Heading\n\nA-very-"
    + "long-" * 30
    + "word\n\n```python\n@cached\ndef f(x: int) -> str:  # why\n    return 'text' if None else len(0.5)\n"
    + "x = "
    + "1 + " * 60
    + "1\n```\n\n"
    "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n| " + " | ".join(["wide cell"] * 6) + " |\n\n"
    "$$"
    + "+".join(f"x_{{{number}}}" for number in range(40))
    + "$$\n\n> quoted [link](https://example.org) `code`\n"
)


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """The source of axe-core, fetched once with npm and kept in pytest's cache."""
    folder = Path(request.config.cache.mkdir("axe-core"))
    script = folder / "axe.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed, so axe-core cannot be fetched")
        packed = subprocess.run(
            [npm, "pack", "--silent", "axe-core@4"], cwd=folder, capture_output=True, text=True, timeout=120
        )
        archives = sorted(folder.glob("axe-core-*.tgz"))
        if packed.returncode or not archives:
            pytest.skip(f"npm could not fetch axe-core: {packed.stderr.strip()[:200]}")
        with tarfile.open(archives[-1]) as archive:
            source = archive.extractfile("package/axe.min.js")
            assert source is not None
            script.write_bytes(source.read())
    return script.read_text("utf-8")


IS_DARK = """() => {
  const light = (colour) => colour.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
  const text = getComputedStyle(document.querySelector('.gradio-container')).color;
  return light(getComputedStyle(document.body).backgroundColor) < light(text);
}"""


def expect_dark(page: Any, dark: Any) -> None:
    """Wait until the page's background is darker, or lighter, than its text."""
    page.wait_for_function(f"({IS_DARK})() === {str(dark).lower()}")


def test_the_demo_model_chats_in_both_languages(visit: Callable[..., Any], demo_site: Site) -> None:
    """Chinese and English questions are answered in their language, with the facts of each answer."""
    page = ChatPage(visit(demo_site, locale="zh-CN"))
    expect(page.page).to_have_title("demo · glm")
    page.ask_and_wait("你好")
    expect(page.finished.last).to_contain_text("glm")
    page.ask_and_wait("Who are you?")
    expect(page.finished.last).to_contain_text("demo model")
    expect(page.status).to_contain_text("tokens/s")
    page.button("清空").click()
    page.button("怎么量化模型？").click()
    expect(page.finished.last).to_contain_text("--quantize int4")


@pytest.mark.parametrize(
    ("locale", "language", "send", "settings"),
    [
        ("zh-CN", "zh", "发送", "设置"),
        ("en-GB", "en", "Send", "Settings"),
        ("fr-FR", "en", "Send", "Settings"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    visit: Callable[..., Any], scripted_site: Site, locale: str, language: str, send: str, settings: str
) -> None:
    """Chinese for Chinese browsers, English for all others."""
    page = ChatPage(visit(scripted_site, locale=locale))
    expect(page.button(send)).to_be_visible()
    page.button(settings).click()
    expect(page.page.get_by_role("heading", name=settings)).to_be_visible()
    expect(page.page.locator("html")).to_have_attribute("lang", language)


def test_the_language_can_be_switched_and_is_remembered(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """The switch changes every text, also of the conversation, and holds after a reload."""
    page = ChatPage(visit(scripted_site, locale="zh-CN"))
    page.ask_and_wait("hello")
    expect(page.button("重新回答")).to_be_visible()
    page.open_settings()
    page.page.get_by_role("radio", name="English").click()
    expect(page.button("Answer again")).to_be_visible()
    expect(page.page.get_by_label("Temperature").first).to_be_visible()
    assert page.page.get_by_text("发送").count() == 0
    expect(page.questions).to_have_text(["hello"])
    page.page.reload()
    expect(page.button("Send")).to_be_visible()
    expect(page.page.locator("html")).to_have_attribute("lang", "en")


def test_light_and_dark_follow_the_system_and_a_switch(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """The system's preference counts until the visitor chooses; the choice holds after a reload."""
    expect_dark(visit(scripted_site, color_scheme="light"), False)
    page = ChatPage(visit(scripted_site, color_scheme="dark"))
    expect_dark(page.page, True)
    page.open_settings()
    page.button("Light or dark").click()
    expect_dark(page.page, False)
    page.page.reload()
    page.page.wait_for_function("document.documentElement.dataset.glm === 'ready'")
    expect_dark(page.page, False)


def test_a_phone_shows_everything_without_sideways_scrolling(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """At 390 pixels long words, code, tables and formulas stay inside, and the input is in view."""
    page, script = ChatPage(visit(scripted_site, **PHONE)), scripted_site.script
    page.ask_and_wait(script.script("long " * 40, Script((LONG,))))
    for width in ("document.documentElement.scrollWidth", "document.querySelector('.glm-log').scrollWidth"):
        assert page.page.evaluate(width) <= 390
    expect(page.box).to_be_in_viewport(ratio=1)
    expect(page.button("Send")).to_be_in_viewport(ratio=1)
    page.open_settings()
    expect(page.page.get_by_label("System prompt")).to_be_in_viewport()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_chat_fills_the_window_and_follows_the_answer(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """The page itself never scrolls; a long answer scrolls inside and its end stays in view."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    lines = "\n\n".join(f"line {number}" for number in range(60))
    page.ask_and_wait(script.script("many lines", Script((lines,))))
    expect(page.finished.last.get_by_text("line 59")).to_be_in_viewport()
    assert page.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def tab_to(page: Any, target: Any, key: str = "Tab") -> None:
    """Press Tab until ``target`` has the focus."""
    for _ in range(40):
        if target.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError("the keyboard does not get there")


def test_everything_works_with_the_keyboard_alone(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Ask, break lines, stop with Escape, regenerate, edit and leave it, open the settings: no mouse."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    keyboard = page.page.keyboard
    tab_to(page.page, page.box)
    keyboard.type("first")
    keyboard.press("Shift+Enter")
    keyboard.type("second")
    keyboard.press("Enter")
    expect(page.questions).to_have_text(["first\nsecond"])
    expect(page.finished).to_have_count(1)
    slow = script.script("slow", Script(("a ", "b"), gated=True))
    keyboard.type(slow)
    page.send(slow)
    script.release(slow)
    expect(page.answers.last).to_have_text("a")
    keyboard.press("Escape")
    expect(page.status).to_have_text("Stopped · 1 tokens")
    script.script(slow, Script(("better",)))
    tab_to(page.page, page.button("Answer again"), "Shift+Tab")
    keyboard.press("Enter")
    expect(page.finished.last).to_have_text("better")
    tab_to(page.page, page.button("Edit this question").last, "Shift+Tab")
    keyboard.press("Enter")
    expect(page.box).to_be_focused()
    expect(page.box).to_have_value("slow")
    keyboard.press("Escape")
    expect(page.box).to_have_value("")
    tab_to(page.page, page.button("Settings"), "Shift+Tab")
    keyboard.press("Enter")
    expect(page.page.locator("#reset")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shape", ["desktop", "phone"])
def test_axe_finds_no_serious_fault(
    visit: Callable[..., Any], scripted_site: Site, axe: str, scheme: str, shape: str
) -> None:
    """axe-core reports nothing serious or critical: empty, in a conversation, with the settings open."""
    options = PHONE if shape == "phone" else {}
    page, script = ChatPage(visit(scripted_site, color_scheme=scheme, **options)), scripted_site.script
    page.page.evaluate(axe)
    faults: list[Any] = []

    def inspect(moment: Any) -> None:
        result = page.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert len(result["passes"]) > 10
        for violation in result["violations"]:
            if violation["impact"] in ("serious", "critical"):
                faults.extend((moment, violation["id"], node["html"][:200]) for node in violation["nodes"])

    inspect("empty")
    page.ask_and_wait(script.script("long", Script((LONG,))))
    page.page.mouse.move(5, 5)
    inspect("conversation")
    page.button("Edit this question").click()
    page.open_settings()
    inspect("settings")
    assert faults == []
