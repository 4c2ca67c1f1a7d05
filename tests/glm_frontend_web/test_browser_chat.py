"""Chatting in a real browser, with a model that answers as the test tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from web_support import Script, Site

from glm_core import BusyError, RequestError

expect = pytest.importorskip("playwright.sync_api").expect
from web_page import ChatPage  # noqa: E402 - imports playwright


def test_an_answer_grows_while_it_comes(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Each piece of an answer is shown before the next one exists, and its facts when it is complete."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("grow", Script(("one ", "two ", "three"), gated=True))
    page.ask(question)
    expect(page.questions).to_have_text(["grow"])
    expect(page.status).to_have_text("Answering …")
    expect(page.box).to_have_value("")
    for release, shown in (("one ", "one"), ("two ", "one two"), ("three", "one two three")):
        script.release(question)
        expect(page.answers.last).to_have_text(shown)
        assert release.strip() in shown
    expect(page.status).to_have_text("3 tokens · 20.0 tokens/s · first word after 0.2 s · prompt 7 tokens")
    expect(page.button("Send")).to_be_visible()


def test_stop_keeps_what_came_and_closes_the_stream(visit: Callable[..., Any], scripted_site: Site) -> None:
    """The stop button ends an answer at once; its text stays and the runtime is told."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("long story", Script(("once upon ", "a time"), gated=True))
    page.ask(question)
    script.release(question)
    expect(page.answers.last).to_have_text("once upon")
    page.button("Stop").click()
    expect(page.status).to_have_text("Stopped · 1 tokens")
    expect(page.finished).to_have_text(["once upon"])
    assert script.was_closed(question)
    expect(page.button("Send")).to_be_visible()


def test_stop_before_the_first_word_gives_the_question_back(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """A question that was stopped too early is in the box again and not in the conversation."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("too early", Script(("never",), gated=True))
    page.ask(question)
    page.button("Stop").click()
    expect(page.box).to_have_value("too early")
    expect(page.questions).to_have_count(0)
    expect(page.status).to_contain_text("your question is back in the box")


def test_regenerate_replaces_the_last_answer(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Answering again asks the same question without its old answer."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("again", Script(("first try",)))
    page.ask_and_wait(question)
    script.script(question, Script(("second try",)))
    page.button("Answer again").click()
    expect(page.finished).to_have_text(["second try"])
    expect(page.questions).to_have_text(["again"])
    assert [message.content for message in script.last_request().messages] == ["again"]


def test_an_answer_that_is_stopped_too_early_leaves_the_old_one(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """Regenerating and stopping before the first word changes nothing."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("keep me", Script(("the old answer",)))
    page.ask_and_wait(question)
    script.script(question, Script(("never",), gated=True))
    page.button("Answer again").click()
    page.button("Stop").click()
    expect(page.finished).to_have_text(["the old answer"])
    expect(page.status).to_have_text("Stopped; the old answer stays as it was")
    expect(page.box).to_have_value("")


def test_an_edited_question_replaces_what_followed(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Editing the first of two questions drops both old turns and asks the new text."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    page.ask_and_wait("alpha")
    page.ask_and_wait("beta")
    page.button("Edit this question").first.click()
    expect(page.box).to_have_value("alpha")
    expect(page.box).to_be_focused()
    expect(page.page.locator("#editing")).to_contain_text("Editing question 1")
    page.ask("gamma")
    expect(page.finished).to_have_text(["gamma"])
    expect(page.questions).to_have_text(["gamma"])
    expect(page.page.locator("#editing")).to_be_hidden()
    assert [message.content for message in script.last_request().messages] == ["gamma"]


def test_an_edit_can_be_cancelled(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Cancelling leaves the conversation as it was and empties the box."""
    page = ChatPage(visit(scripted_site))
    page.ask_and_wait("alpha")
    page.button("Edit this question").click()
    page.button("Cancel").click()
    expect(page.page.locator("#editing")).to_be_hidden()
    expect(page.box).to_have_value("")
    expect(page.finished).to_have_text(["alpha"])


def test_a_turn_can_be_deleted(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Deleting the first turn leaves the second one, which is then the whole history."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    page.ask_and_wait("alpha")
    page.ask_and_wait("beta")
    page.button("Delete this turn").first.click()
    expect(page.questions).to_have_text(["beta"])
    page.ask_and_wait("gamma")
    assert [message.content for message in script.last_request().messages] == ["beta", "beta", "gamma"]


def test_undo_and_clear(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Undo puts the last question back into the box; clear leaves the welcome with its examples."""
    page = ChatPage(visit(scripted_site))
    page.ask_and_wait("alpha")
    page.ask_and_wait("beta")
    page.button("Undo").click()
    expect(page.questions).to_have_text(["alpha"])
    expect(page.box).to_have_value("beta")
    page.button("Clear").click()
    expect(page.questions).to_have_count(0)
    expect(page.page.get_by_role("group", name="Example questions").get_by_role("button")).to_have_count(4)


def test_the_queue_position_is_shown(visit: Callable[..., Any], scripted_site: Site) -> None:
    """A waiting visitor sees how many are ahead, then that the answer has begun."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("wait for me", Script(("done",), gated=True, waiting=(2, 1)))
    page.ask(question)
    expect(page.status).to_have_text("Waiting in the queue: 2 ahead of you")
    script.release(question)
    expect(page.status).to_have_text("Waiting in the queue: 1 ahead of you")
    script.release(question)
    expect(page.status).to_have_text("Answering …")
    script.release(question)
    expect(page.finished).to_have_text(["done"])


def test_a_full_queue_is_a_friendly_sentence(visit: Callable[..., Any], scripted_site: Site) -> None:
    """A busy model refuses kindly, and the question is not lost."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("busy?", Script(refusal=BusyError("16 requests wait")))
    page.ask(question)
    expect(page.status).to_contain_text("Too many people are asking")
    expect(page.box).to_have_value("busy?")
    expect(page.questions).to_have_count(0)
    expect(page.button("Send")).to_be_visible()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RequestError("the question has 9 tokens; 5 fit"),
            "Something went wrong: the question has 9 tokens; 5 fit",
        ),
        (ValueError("deep inside"), "Something went wrong: plugin 'scripted' failed in chat_stream"),
    ],
    ids=["refused", "broken"],
)
def test_a_failed_answer_is_told_and_the_question_returns(
    visit: Callable[..., Any], scripted_site: Site, error: Any, said: str
) -> None:
    """Whether the request was wrong or the runtime broke: one sentence, and the question is back."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script(f"fail {said}", Script((), error=error))
    page.ask(question)
    expect(page.status).to_contain_text(said)
    expect(page.box).to_have_value(question)
    expect(page.questions).to_have_count(0)


def test_trimmed_history_and_length_limit_are_told(visit: Callable[..., Any], scripted_site: Site) -> None:
    """The line of status says how many messages were left out, and why an answer broke off."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("much", Script(("cut",), finish_reason="length", dropped_messages=4))
    page.ask_and_wait(question)
    expect(page.status).to_contain_text("reached its length limit")
    expect(page.status).to_contain_text("the oldest 4 messages were not given to the model")


def test_settings_reach_the_model_and_go_back_to_its_defaults(
    visit: Callable[..., Any], scripted_site: Site
) -> None:
    """System prompt and sliders are part of the request; the reset button brings the model's own values."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    page.open_settings()
    page.page.get_by_label("System prompt").fill("Be brief.")
    for name, value in (("max-length", "512"), ("top-p", "0.5"), ("temperature", "0.2")):
        number = page.page.locator(f"#{name} input[type=number]")
        number.fill(value)
        number.press("Tab")
    page.ask_and_wait("with settings")
    request = script.last_request()
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "with settings"),
    ]
    sampling = request.sampling
    assert (sampling.max_length, sampling.top_p, sampling.temperature) == (512, 0.5, 0.2)
    page.button("Back to the model's defaults").click()
    expect(page.page.locator("#temperature input[type=number]")).to_have_value("0.95")
    page.ask_and_wait("with defaults")
    sampling = script.last_request().sampling
    assert (sampling.max_length, sampling.top_p, sampling.temperature) == (2048, 0.7, 0.95)


def test_the_sliders_have_the_originals_ranges(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Maximum length 0 to 4096, top-p and temperature 0 to 1."""
    page = ChatPage(visit(scripted_site))
    page.open_settings()
    ranges = [
        [page.page.locator(f"#{name} input[type=range]").get_attribute(side) for side in ("min", "max")]
        for name in ("max-length", "top-p", "temperature")
    ]
    assert ranges == [["0", "4096"], ["0", "1"], ["0", "1"]]


def test_an_example_is_asked_at_a_click(visit: Callable[..., Any], scripted_site: Site) -> None:
    """An example question is sent as it is written."""
    page = ChatPage(visit(scripted_site))
    page.button("Write a quicksort in Python").click()
    expect(page.questions).to_have_text(["Write a quicksort in Python"])
    expect(page.finished).to_have_count(1)


def test_markdown_code_and_formulas_are_drawn(visit: Callable[..., Any], scripted_site: Site) -> None:
    """Lists, tables, highlighted code with a copy button, and TeX as MathML."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    answer = (
        "# Title\n\n- **bold**\n- `x < y`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "```python\nif a < b:\n    print('小于')\n```\n\n$$\\frac{a}{b}$$\n\nand \\(x^2\\) costs $5 or $6\n"
    )
    question = script.script("draw", Script((answer,)))
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.ask_and_wait(question)
    drawn = page.finished.last
    expect(drawn.get_by_role("heading", name="Title")).to_be_visible()
    expect(drawn.get_by_role("listitem")).to_have_count(2)
    expect(drawn.get_by_role("cell")).to_have_count(2)
    expect(drawn.locator("math mfrac")).to_have_count(1)
    expect(drawn.locator("math msup")).to_have_count(1)
    expect(drawn).to_contain_text("costs $5 or $6")
    page.button("Copy code").click()
    page.page.wait_for_function("navigator.clipboard.readText().then((text) => text.startsWith('if'))")
    assert page.page.evaluate("navigator.clipboard.readText()") == "if a < b:\n    print('小于')\n"


def test_a_second_question_waits_for_the_first_answer(visit: Callable[..., Any], scripted_site: Site) -> None:
    """While an answer comes, Enter sends nothing and loses nothing."""
    page, script = ChatPage(visit(scripted_site)), scripted_site.script
    question = script.script("first", Script(("a", "b"), gated=True))
    page.ask(question)
    script.release(question)
    expect(page.answers.last).to_have_text("a")
    page.ask("second")
    page.button("Undo").click()
    expect(page.status).to_have_text("An answer is still coming; wait for it or stop it first")
    expect(page.box).to_have_value("second")
    script.release(question)
    expect(page.finished).to_have_text(["ab"])
    expect(page.questions).to_have_text(["first"])
