"""What must never happen in a visitor's browser: foreign scripts, and requests to foreign servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_payloads import PAYLOADS
from web_support import BROWSER_ARGUMENTS, Script, Site, chromium, site

expect = pytest.importorskip("playwright.sync_api").expect
from web_page import ChatPage  # noqa: E402 - imports playwright

# With the page's policy switched off, so that escaping has to hold by itself.
UNPROTECTED = {"bypass_csp": True}
INSERT = "(html) => { document.querySelector('.glm-log').insertAdjacentHTML('beforeend', html); }"


def watch(page: Any) -> None:
    """Count calls of ``hit`` and dialogs."""
    page.evaluate("() => { window.hits = 0; window.hit = () => { window.hits += 1; }; }")
    page.on("dialog", lambda dialog: dialog.dismiss())


def assert_harmless(page: Any) -> None:
    """Nothing was called, and the conversation holds no element or attribute that could call anything."""
    found = page.evaluate("""async () => {
      document.querySelectorAll('.glm-log *').forEach((one) => one.dispatchEvent(new Event('toggle')));
      await new Promise((done) => setTimeout(done, 200));
      const log = document.querySelector('.glm-log');
      return {
        hits: window.hits,
        elements: log.querySelectorAll('script, img, iframe, object, form, input, video, animate').length,
        handlers: [...log.querySelectorAll('*')].filter((element) =>
          [...element.attributes].some((attribute) => attribute.name.startsWith('on'))).length,
        links: [...log.querySelectorAll('[href]')].filter((element) =>
          !/^(https?:|mailto:)/.test(element.getAttribute('href'))).length,
      };
    }""")
    assert found == {"hits": 0, "elements": 0, "handlers": 0, "links": 0}


def test_there_are_payloads_enough_and_the_test_could_fail(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """Two dozen payloads; one of them, put into the page unescaped, does call ``hit``."""
    assert len(PAYLOADS) >= 20
    page = visit(scripted_site, **UNPROTECTED)
    watch(page)
    page.evaluate(INSERT, PAYLOADS[1])
    page.wait_for_function("window.hits === 1")


def test_the_pages_policy_stops_what_gets_past_the_escaping(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """With the policy in force the same payload, put into the page unescaped, calls nothing."""
    page = visit(scripted_site)
    watch(page)
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(INSERT, PAYLOADS[1] + '<a id="bait" href="javascript:hit()">x</a>')
    page.locator("#bait").click()
    page.wait_for_function("() => document.querySelector('#bait')")
    expect(page.locator("#bait")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hits") == 0
    assert any("Content Security Policy" in text for text in refused)


def test_no_payload_runs_from_a_question_or_an_answer(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Each payload is asked and echoed as the answer: all of it is shown as text or harmless Markdown."""
    page = ChatPage(visit(scripted_site, **UNPROTECTED))
    watch(page.page)
    for payload in PAYLOADS:
        page.ask_and_wait(payload)
    expect(page.questions.first).to_have_text(PAYLOADS[0])
    expect(page.finished.first).to_have_text(PAYLOADS[0])
    assert_harmless(page.page)


def test_no_payload_runs_while_it_is_half_there(visit: Callable[..., Any], scripted_site: Site) -> None:
    """An answer that stops growing in the middle of a payload is harmless as well."""
    page, script = ChatPage(visit(scripted_site, **UNPROTECTED)), scripted_site.script
    watch(page.page)
    text = "\n\n".join(PAYLOADS)
    pieces = tuple(text[start : start + 97] for start in range(0, len(text), 97))
    question = script.script("piecemeal", Script(pieces, gated=True))
    page.ask(question)
    for _ in pieces:
        script.release(question)
        page.page.wait_for_timeout(20)
    expect(page.finished).to_have_count(1)
    assert_harmless(page.page)


@pytest.mark.parametrize("kind", ["json", "md"])
def test_no_payload_runs_from_an_imported_conversation(
    visit: Callable[..., Any], scripted_site: Site, kind: str
) -> None:
    """Payloads as questions, answers, system prompt and adapter of a file do nothing."""
    page = ChatPage(visit(scripted_site, **UNPROTECTED))
    watch(page.page)
    facts = {
        "version": 1,
        "model": PAYLOADS[0],
        "system": PAYLOADS[1],
        "adapter": PAYLOADS[1],
        "settings": {},
    }
    if kind == "json":
        messages = [
            {"role": role, "content": payload} for payload in PAYLOADS for role in ("user", "assistant")
        ]
        text = json.dumps({**facts, "messages": messages})
    else:
        sections = (
            f"## x <!-- glm:{role} -->\n\n{payload}\n"
            for payload in PAYLOADS
            for role in ("user", "assistant")
        )
        text = f"# {PAYLOADS[0]}\n\n<!-- glm-conversation {json.dumps(facts)} -->\n" + "\n".join(sections)
    page.open_settings()
    page.import_file(f"bad.{kind}", text)
    expect(page.questions).to_have_count(len(PAYLOADS))
    expect(page.status).to_contain_text(PAYLOADS[1])
    assert_harmless(page.page)


def test_no_payload_runs_from_the_name_of_an_adapter_or_model(browser: Any) -> None:
    """Names of adapters and of the model are text wherever they are shown."""
    names = (*PAYLOADS[:4], "plain")
    with site(adapters=names, name=PAYLOADS[1]) as named:
        context = browser.new_context(locale="en-GB", **UNPROTECTED)
        context.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; };")
        page = ChatPage(context.new_page())
        page.page.goto(named.url)
        expect(page.page.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=hit()>")
        page.open_settings()
        page.page.get_by_label("Adapter").click()
        page.page.get_by_role("option", name=PAYLOADS[1]).click()
        page.ask_and_wait("who are you?")
        assert named.script.last_request().adapter == PAYLOADS[1]
        page.page.wait_for_timeout(200)
        assert_harmless(page.page)
        context.close()


def test_the_page_asks_no_other_server_for_anything(
    browser: Any, scripted_site: Site, tmp_path: Path
) -> None:
    """With the network cut off the page works in full, and neither side even tries to reach it."""
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    script = scripted_site.script
    answer = (
        "![spy](https://spy.example/pixel.png)\n\n<img src=https://spy.example/x>\n\n$$\\sqrt{x}$$\n\n"
        "```python\nx = 1\n```\n\n[link](https://example.org)"
    )
    question = script.script("look outside", Script((answer,)))
    lone = browser.browser_type.launch(executable_path=chromium(), args=[*BROWSER_ARGUMENTS, rules])
    context = lone.new_context(locale="zh-CN", color_scheme="dark")
    foreign, seen = [], []

    def judge(route: Any, request: Any) -> None:
        seen.append(request.url)
        if request.url.startswith((scripted_site.url, "data:", "blob:")):
            route.continue_()
        else:
            foreign.append(request.url)
            route.abort()

    context.route("**/*", judge)
    page = ChatPage(context.new_page())
    page.page.goto(scripted_site.url)
    page.ask_and_wait(question)
    page.open_settings()
    expect(page.finished.last.locator("math")).to_have_count(1)
    page.page.reload()
    expect(page.box).to_be_visible()
    page.page.wait_for_function("document.documentElement.dataset.glm === 'ready'")
    lone.close()
    assert len(seen) > 10
    assert foreign == []
    assert script.names_looked_up() == []
