"""Tools in ``POST /v1/chat/completions``: what reaches the model, what comes back, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from api_support import ScriptedRuntime, Served, chat_body, events, serving
from glm_testing import make_host
from key_words import missing_words

from glm_core import (
    ChatModel,
    ChatRequest,
    Delta,
    Message,
    ModelInfo,
    Sampling,
    Tool,
    ToolCall,
    Usage,
    hookimpl,
)
from glm_core.records import ToolCallDelta

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}},
    {"id": "c2", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
]
TOLD: list[dict[str, Any]] = [
    {"role": "user", "content": "天气?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "content": [{"type": "text", "text": "22"}], "tool_call_id": "c1"},
    {"role": "tool", "content": "", "tool_call_id": "c2"},
]


class ToolRuntime:
    """Says a word if asked to, then calls two tools, the first one in fragments."""

    GLM_API_VERSION = 2

    def __init__(self) -> None:
        self.info = ModelInfo("tools", "scripted", 0, 2048, Sampling(), features=frozenset({"tools"}))
        self.requests: list[ChatRequest] = []

    def close(self) -> None:
        """Nothing to give back."""

    @hookimpl
    def chat_stream(self, model: object, request: ChatRequest) -> Iterator[Delta]:
        """Note the request and answer."""
        self.requests.append(request)
        return self._deltas(request.messages[-1].content)

    def _deltas(self, text: str) -> Iterator[Delta]:
        if text == "say":
            yield Delta("Looking.", (1,))
        yield Delta("", (2,), tool_calls=(ToolCallDelta(0, "c1", "get_weather", '{"city": '),))
        second = ToolCallDelta(1, "c2", "get_time", "{}")
        usage = Usage(prompt_tokens=3, completion_tokens=3)
        first = ToolCallDelta(0, arguments='"北京"}')
        yield Delta("", (3,), "tool_calls", usage, tool_calls=(first, second))

    @property
    def model(self) -> ChatModel:
        """As core hands it to a frontend."""
        return ChatModel(make_host(tools=self), "tools", self)


@pytest.fixture
def tool_runtime() -> ToolRuntime:
    """A model that calls tools."""
    return ToolRuntime()


@pytest.fixture
def with_tools(tool_runtime: ToolRuntime) -> Iterator[Served]:
    """A server around it."""
    with serving(tool_runtime.model) as served:
        yield served


def error_of(served: Served, **fields: Any) -> Any:
    """The error of a request that must be refused with 400."""
    response = served.http.post("/v1/chat/completions", json={**chat_body("hello"), **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_tools_and_their_messages_reach_the_model(with_tools: Served, tool_runtime: ToolRuntime) -> None:
    """Definitions, choice, calls and answers arrive as the client sent them."""
    body = {"model": "default", "messages": TOLD, "tools": [WEATHER, TIME], "parallel_tool_calls": False}
    choice = {"type": "function", "function": {"name": "get_time"}}
    response = with_tools.http.post("/v1/chat/completions", json={**body, "tool_choice": choice})
    assert response.is_success, response.text
    (request,) = tool_runtime.requests
    schema = WEATHER["function"]["parameters"]
    assert request.tools == (Tool("get_weather", "查询天气", schema), Tool("get_time"))
    assert (request.tool_choice, request.parallel_tool_calls) == ("get_time", False)
    calls = (ToolCall("c1", "get_weather", '{"city": "北京"}'), ToolCall("c2", "get_time", "{}"))
    assert request.messages == (
        Message("user", "天气?"),
        Message("assistant", "", calls),
        Message("tool", "22", tool_call_id="c1"),
        Message("tool", "", tool_call_id="c2"),
    )


@pytest.mark.parametrize("choice", ["auto", "none", "required", None])
def test_choice_is_handed_on(with_tools: Served, tool_runtime: ToolRuntime, choice: str | None) -> None:
    """Left out, the model chooses, and several calls are allowed."""
    assert with_tools.chat("x", tools=[WEATHER], tool_choice=choice).is_success
    assert tool_runtime.requests[0].tool_choice == (choice or "auto")
    assert tool_runtime.requests[0].parallel_tool_calls


@pytest.mark.parametrize(("question", "content"), [("say", "Looking."), ("x", None)])
def test_whole_answer_has_its_calls(with_tools: Served, question: str, content: str | None) -> None:
    """Text and calls stand side by side; without text, content is null."""
    (choice,) = with_tools.chat(question, tools=[WEATHER, TIME]).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": content, "tool_calls": CALLS}
    assert choice["finish_reason"] == "tool_calls"


def test_stream_gives_each_calls_name_before_its_arguments(with_tools: Served) -> None:
    """A call begins with id, type and name; fragments of its arguments follow under its index."""
    body = chat_body("say", tools=[WEATHER, TIME], stream=True)
    with with_tools.http.stream("POST", "/v1/chat/completions", json=body) as response:
        *chunks, done = events(response)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]

    def begin(index: int) -> dict[str, Any]:
        call: Any = CALLS[index]
        return {**call, "index": index, "function": {**call["function"], "arguments": ""}}

    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Looking."},
        {"tool_calls": [begin(0)]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"北京"}'}}]},
        {"tool_calls": [begin(1)]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 7 + ["tool_calls"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"messages": TOLD}, "messages[1].tool_calls"),
        ({"messages": TOLD[2:3]}, "messages[0].role"),
    ],
)
def test_model_without_a_format_refuses_by_name(
    served: Served, runtime: ScriptedRuntime, fields: Any, param: str
) -> None:
    """Where the model knows no tools, the field that asks for them is named."""
    error = error_of(served, **fields)
    assert (error["param"], error["code"]) == (param, "unsupported_field")
    assert not missing_words(error["message"], param, "scripted", "leave it out")
    assert runtime.requests == []


def function(**fields: Any) -> list[dict[str, Any]]:
    """One tool."""
    return [{"type": "function", "function": {"name": "f", **fields}}]


def called(**fields: Any) -> list[dict[str, Any]]:
    """A conversation with one call."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}
    return [TOLD[0], {"role": "assistant", "content": None, "tool_calls": [call]}, TOLD[2]]


DEEP: dict[str, Any] = {}
for _ in range(70):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": {}}, "tools", "got {}"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "should be 'function', got \"custom\""),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is missing"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "is missing"),
        ({"tools": function(name="a b")}, "tools[0].function.name", "should match pattern"),
        ({"tools": function(name="x" * 65)}, "tools[0].function.name", "should match pattern"),
        ({"tools": function(name="auto")}, "tools[0].function", "cannot be called 'auto'"),
        ({"tools": function(parameters=[])}, "tools[0].function.parameters", "got []"),
        ({"tools": function(parameters=DEEP)}, "tools[0].function", "nested more than 64 levels deep"),
        ({"tools": function(returns={})}, "tools[0].function.returns", "is not a field of this route"),
        ({"tools": [TIME] * 129}, "tools", "at most 128 items"),
        ({"tools": [TIME, TIME]}, None, "two tools are called 'get_time'; rename one"),
        ({"tools": [TIME], "tool_choice": "always"}, "tool_choice", "should be 'none', 'auto' or 'required'"),
        ({"tools": [TIME], "tool_choice": 5}, "tool_choice", "got 5"),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            "f is not among the tools of the request",
        ),
        ({"tool_choice": "required"}, "tool_choice", "required needs tools; send them too"),
        (
            {"messages": called(function={"name": "f"})},
            "messages[1].tool_calls[0].function.arguments",
            "missing",
        ),
        ({"messages": called(type="x")}, "messages[1].tool_calls[0].type", "should be 'function'"),
        ({"messages": called(id="")}, "messages[1].tool_calls[0].id", "at least 1 character"),
        ({"messages": called(id="x" * 257)}, "messages[1]", "must have 1 to 256 characters, got 257"),
        (
            {"messages": called(function={"name": "f", "arguments": "{"})},
            "messages[1]",
            "the arguments of tool call 'c1' are not JSON",
        ),
        ({"messages": TOLD[:2]}, None, "must end with a user's message or a tool's"),
        ({"messages": TOLD[:3]}, None, "the tool call 'c2' is not answered"),
        ({"messages": TOLD[2:]}, None, "answers the call 'c1'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "tool_call_id of a tool's message"),
        ({"messages": [{**TOLD[0], "tool_call_id": "c1"}]}, "messages[0]", "only a tool's may"),
        ({"messages": [{**TOLD[0], "tool_calls": CALLS}]}, "messages[0]", "only an assistant's may"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'system', 'developer'"),
    ],
)
def test_wrong_tools_are_refused_with_the_field(
    with_tools: Served, tool_runtime: ToolRuntime, fields: Any, param: str | None, message: str
) -> None:
    """A refusal names the field, what was seen and what was expected, and nothing reaches the model."""
    error = error_of(with_tools, **fields)
    assert error["param"] == param
    assert message in error["message"]
    assert tool_runtime.requests == []
