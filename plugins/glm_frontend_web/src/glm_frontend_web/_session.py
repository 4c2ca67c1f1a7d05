"""One visitor's chat: the state of a browser window, and what happens to it. Nothing of a page."""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from glm_core import BusyError, ChatModel, GlmError, RequestError
from glm_core.conversation import Conversation, Turn

from ._answering import PageAnswer
from ._log import ConversationLog
from ._room import describe_full
from ._settings import PageSettings
from ._texts import Texts

logger = logging.getLogger("glm_frontend_web")


@dataclass
class WindowState:
    """The state of one browser window; gradio keeps one for each and shows it to nobody else.

    Attributes:
        say: the texts, in the visitor's language.
        log: renders the conversation.
        conversation: what was said.
        editing: the turn whose question is being changed in the input box.
        is_answering: whether an answer is coming, so that the conversation may not be changed.
        answer: that answer, once it was asked for; what stops it.
        adapters: those that the window's menu offers.
        is_shown: whether the page was loaded into the window. What comes from a window that is not shown
            comes from one that was forgotten, while its page still shows a conversation.
    """

    say: Texts
    log: ConversationLog
    conversation: Conversation = field(default_factory=Conversation)
    editing: int | None = None
    is_answering: bool = False
    answer: PageAnswer | None = None
    adapters: tuple[str, ...] = ()
    is_shown: bool = False


@dataclass(frozen=True)
class ShownAnswer:
    """What to show of an answer now.

    Attributes:
        pieces: the log.
        status: the line below it.
        given_back: a question that shall return to the input box.
        running: whether more is to come.
    """

    pieces: list[str]
    status: str
    given_back: str = ""
    running: bool = True


async def answer(
    model: ChatModel,
    session: WindowState,
    question: str,
    settings: PageSettings,
    *,
    at: int | None,
    again: bool = False,
) -> AsyncGenerator[ShownAnswer]:
    """Answer a question.

    A question that fails, or is stopped before the first word, leaves the conversation as it was.

    Args:
        model: what answers.
        session: changed when the answer is complete or was stopped.
        question: as typed.
        settings: as set beside the conversation.
        at: the turn that is replaced, with all that follow it; ``None`` = a new one.
        again: whether the question stands in the conversation already, unchanged.

    Yields:
        What to show; the last one is not running.
    """
    session.is_answering = True  # before anything is waited for, so that a second question finds it
    say, turns = session.say, session.conversation.turns[:at]
    given_back = "" if again else question
    if full := describe_full(turns, question, settings.system, say):
        yield await _show_at_rest(session, full, given_back)
        return
    try:
        pieces = await to_thread(session.log.render_growing, turns, question, "")
        yield ShownAnswer(pieces, say("answering"))
        settings.apply_to(session.conversation)
        with_tools = "tools" in model.info.features
        request = session.conversation.build_request(question, after=at, with_tools=with_tools)
        session.answer = current = PageAnswer(lambda: model.stream(request))
        async with aclosing(current.updates()) as updates:
            async for _ in updates:
                # On a thread: a long answer takes tens of milliseconds of the loop that serves everybody.
                pieces = await to_thread(session.log.render_growing, turns, question, current.progress.text)
                yield ShownAnswer(pieces, _describe_wait(current, say))
    except BusyError:
        yield await _show_at_rest(session, say("busy"), given_back)
    except GlmError as error:
        yield await _show_at_rest(session, say("error", message=error), given_back)
    except Exception:  # ours or a plugin's fault: the visitor keeps the question, the operator gets the trace
        logger.exception("the answer failed")
        yield await _show_at_rest(session, say("failed"), given_back)
    else:
        text = current.progress.text
        if current.was_stopped and not text.strip():
            status = say("kept_old_answer" if again else "stopped_before_text")
            yield await _show_at_rest(session, status, given_back)
            return
        session.conversation.record(Turn(question, text), after=at)
        session.editing = None
        yield await _show_at_rest(session, _describe_result(current, say))
    finally:
        session.is_answering, session.answer = False, None


async def _show_at_rest(session: WindowState, status: str, given_back: str = "") -> ShownAnswer:
    session.is_answering, session.answer = False, None
    pieces = await to_thread(session.log.render, session.conversation.turns)
    return ShownAnswer(pieces, status, given_back, running=False)


def _describe_wait(current: PageAnswer, say: Texts) -> str:
    if current.progress.queue_position > 0:
        return say("queued", count=current.progress.queue_position)
    return say("answering")


def _describe_result(current: PageAnswer, say: Texts) -> str:
    usage = current.progress.usage
    if current.was_stopped:
        return say("stopped", count=usage.completion_tokens)
    parts = [say("finished", count=usage.completion_tokens)]
    if usage.tokens_per_second > 0:
        parts.append(say("finished_speed", speed=usage.tokens_per_second))
    if usage.time_to_first_token > 0:
        parts.append(say("finished_first", seconds=usage.time_to_first_token))
    parts.append(say("finished_prompt", count=usage.prompt_tokens))
    if current.progress.finish_reason == "length":
        parts.append(say("length_reached"))
    if usage.dropped_messages:
        parts.append(say("messages_dropped", count=usage.dropped_messages))
    return " · ".join(parts)


def get_question(conversation: Conversation, index: object) -> str:
    """Return the question of one turn; ``index`` comes from a browser and may be anything.

    Raises:
        RequestError: there is no such turn.
    """
    count = len(conversation.turns)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
        raise RequestError(f"there is no turn {index!r}; there are {count}")
    return conversation.turns[index].question
