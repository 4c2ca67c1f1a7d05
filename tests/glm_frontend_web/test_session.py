"""One question from its sending to the line of status, without any page."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from glm_frontend_web._log import ConversationLog
from glm_frontend_web._room import MAX_BYTES, MAX_TURNS
from glm_frontend_web._session import WindowState, answer, get_question
from glm_frontend_web._settings import PageSettings
from glm_frontend_web._texts import SAY
from web_support import Script, ScriptedRuntime

from glm_core import BusyError, Message, RequestError, ToolCall
from glm_core.conversation import Conversation, Turn

EN = SAY["en"]


@pytest.fixture
def session() -> WindowState:
    """A visitor with one turn behind them."""
    return WindowState(EN, ConversationLog(EN, demo=False), Conversation([Turn("old", "OLD")]))


@pytest.fixture
def runtime() -> ScriptedRuntime:
    """A model that echoes, or does what a script says."""
    return ScriptedRuntime()


def ask(runtime: ScriptedRuntime, session: WindowState, question: Any, **more: Any) -> Any:
    """Everything that is shown of one answer."""

    async def progress() -> Any:
        shown = []
        async for one in answer(runtime.model, session, question, PageSettings(), **{"at": None} | more):
            shown.append(one)
        return shown

    return asyncio.run(progress())


def test_an_answer_is_recorded_and_its_facts_are_told(session: WindowState, runtime: ScriptedRuntime) -> None:
    """The first thing shown is the question, the last the whole turn with its usage."""
    shown = ask(runtime, session, runtime.script("q", Script(("a ", "b"))))
    assert "Thinking" in shown[0].pieces[-1]
    assert shown[0].running
    assert not shown[-1].running
    assert shown[-1].status.startswith("2 tokens · 20.0 tokens/s")
    assert session.conversation.turns == [Turn("old", "OLD"), Turn("q", "a b")]
    assert session.answer is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(refusal=BusyError("full")), "Too many people"),
        (Script(refusal=RequestError("bad <b>")), "Something went wrong: bad <b>"),
        (Script((), error=RequestError("late")), "Something went wrong: late"),
    ],
    ids=["busy", "refused", "late"],
)
def test_a_failure_gives_the_question_back(
    session: WindowState, runtime: ScriptedRuntime, script: Any, said: str
) -> None:
    """Nothing is recorded, and the question returns to the box."""
    last = ask(runtime, session, runtime.script("q", script))[-1]
    assert said in last.status
    assert last.given_back == "q"
    assert session.conversation.turns == [Turn("old", "OLD")]


def test_a_failure_while_answering_again_gives_nothing_back(
    session: WindowState, runtime: ScriptedRuntime
) -> None:
    """The question stands in the conversation already, with its old answer."""
    question = runtime.script("old", Script(refusal=BusyError("full")))
    last = ask(runtime, session, question, at=0, again=True)[-1]
    assert last.given_back == ""
    assert "OLD" in last.pieces[-1]


def test_an_edit_that_fails_goes_on(session: WindowState, runtime: ScriptedRuntime) -> None:
    """After a failure the visitor is still editing; after a success no longer."""
    session.editing = 0
    ask(runtime, session, runtime.script("new", Script(refusal=BusyError("full"))), at=0)
    assert session.editing == 0
    runtime.script("new", Script(("fine",)))
    ask(runtime, session, "new", at=0)
    assert session.editing is None
    assert session.conversation.turns == [Turn("new", "fine")]


def test_our_own_faults_are_logged_and_not_shown(
    session: WindowState, runtime: ScriptedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault inside gives one sentence to the visitor and the trace to the operator."""

    def broken(request: pytest.FixtureRequest) -> None:
        raise ZeroDivisionError("secret detail")

    runtime = SimpleNamespace(model=SimpleNamespace(stream=broken, info=runtime.model.info))  # type: ignore[assignment]
    last = ask(runtime, session, "q")[-1]
    assert "secret" not in last.status
    assert last.given_back == "q"
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("index", [-1, 1, None, "0", 0.0, True, [0]])
def test_an_index_from_a_browser_may_be_anything(session: WindowState, index: Any) -> None:
    """Whatever is no index of a turn is refused."""
    assert get_question(session.conversation, 0) == "old"
    with pytest.raises(RequestError, match="no turn"):
        get_question(session.conversation, index)


def test_a_wrong_setting_is_told_and_gives_the_question_back(
    session: WindowState, runtime: ScriptedRuntime
) -> None:
    """A browser may send anything for a slider; the conversation stays as it was."""

    async def progress() -> Any:
        asking = answer(runtime.model, session, "q", PageSettings(top_p=2), at=None)
        return [one async for one in asking]

    last = asyncio.run(progress())[-1]
    assert "top_p" in last.status
    assert last.given_back == "q"
    assert session.conversation == Conversation([Turn("old", "OLD")])


LONG = "中" * (MAX_BYTES // 3)
CALL = Message("assistant", "", (ToolCall("a", "f", json.dumps({"x": LONG}, ensure_ascii=False)),))
FULL = {
    "turns": [Turn("q", "a")] * MAX_TURNS,
    "a long answer": [Turn("q", LONG)],
    "long questions": [Turn(LONG[: len(LONG) // 2], "a")] * 2,
    "results of tools": [Turn("q", "a", (CALL, Message("tool", "1", tool_call_id="a")))],
}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("turns", FULL.values(), ids=FULL.keys())
def test_a_conversation_that_is_full_is_told_how_to_go_on(
    runtime: ScriptedRuntime, turns: list[Turn], language: Any
) -> None:
    """However it grew, the question comes back unasked; replacing an early turn still works."""
    say = SAY[language]
    session = WindowState(say, ConversationLog(say, demo=False), Conversation(list(turns)))
    (shown,) = ask(runtime, session, "next")
    assert not shown.running
    assert shown.given_back == "next"
    assert {"en": "Export it", "zh": "导出"}[language] in shown.status
    assert session.conversation.turns == turns
    assert not session.is_answering
    assert not ask(runtime, session, "again", at=0)[-1].running
    assert [turn.question for turn in session.conversation.turns] == ["again"]


def test_a_question_that_is_too_long_for_the_page_is_not_asked(
    session: WindowState, runtime: ScriptedRuntime
) -> None:
    """Alone it may be as long as a whole conversation, and no longer."""
    assert len(ask(runtime, session, LONG + "...")) == 1
    assert session.conversation.turns == [Turn("old", "OLD")]
