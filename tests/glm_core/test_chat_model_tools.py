"""A loaded model and tools: what core lets through to its runtime, and the message that comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from glm_testing import make_host

from glm_core import (
    ChatModel,
    ChatRequest,
    Delta,
    Message,
    ModelInfo,
    RequestError,
    Sampling,
    Tool,
    ToolCall,
    Usage,
    hookimpl,
)
from glm_core.chat_model import collect
from glm_core.records import ToolCallDelta

QUESTION = (Message("user", "weather?"),)
CALL = ToolCall("c1", "get_weather", '{"city": "x"}')
TOLD = (*QUESTION, Message("assistant", "", (CALL,)), Message("tool", "22", tool_call_id="c1"))
TOOLS = (Tool("get_weather"),)


class Runtime:
    """Calls a tool after a word."""

    GLM_API_VERSION = 2

    def __init__(self, tools: bool) -> None:
        self.info = ModelInfo(
            "little", "family", 0, 64, Sampling(), features=frozenset({"tools"} if tools else ())
        )
        self.asked: list[ChatRequest] = []

    def close(self) -> None:
        """Nothing to give back."""

    @hookimpl
    def chat_stream(self, model: object, request: ChatRequest) -> Iterator[Delta]:
        """Note the request and answer."""
        self.asked.append(request)
        return self._deltas()

    def _deltas(self) -> Iterator[Delta]:
        """A word, then a call in two pieces."""
        yield Delta("Looking.")
        yield Delta("", tool_calls=(ToolCallDelta(0, "c1", "get_weather", '{"city": '),))
        yield Delta("", (), "tool_calls", Usage(), tool_calls=(ToolCallDelta(0, arguments='"x"}'),))

    @property
    def model(self) -> ChatModel:
        """As core hands it out."""
        return ChatModel(make_host(little=self), "little", self)


@pytest.mark.parametrize(
    "request_", [ChatRequest(QUESTION, tools=TOOLS), ChatRequest(TOLD), ChatRequest((*TOLD, *QUESTION))]
)
def test_model_without_a_format_for_tools_is_not_asked(request_: ChatRequest) -> None:
    """Tools, calls and their answers are refused in one sentence, and nothing reaches the runtime."""
    runtime = Runtime(tools=False)
    message = "little (family) has no format for tools; leave tools and their messages out"
    with pytest.raises(RequestError, match=re.escape(message)):
        runtime.model.stream(request_)
    assert runtime.asked == []


def test_reply_is_the_assistants_message_with_its_calls() -> None:
    """`reply` gives text and calls; appended to the conversation, they can be answered."""
    runtime = Runtime(tools=True)
    reply = runtime.model.reply(ChatRequest(QUESTION, tools=TOOLS))
    assert reply == Message("assistant", "Looking.", (CALL,))
    runtime.model.reply(
        ChatRequest((*QUESTION, reply, Message("tool", "22", tool_call_id="c1")), tools=TOOLS)
    )
    assert [len(request.messages) for request in runtime.asked] == [1, 3]


def test_collect_gives_the_text_beside_calls() -> None:
    """Who wants text alone gets it, and the reason why the answer ended."""
    text, last = collect(Runtime(tools=True).model.stream(ChatRequest(QUESTION, tools=TOOLS)))
    assert (text, last.finish_reason) == ("Looking.", "tool_calls")
