"""What a conversation is made of: messages, tools and calls, and what is refused of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from key_words import containing

from glm_core import ChatRequest, Message, PluginError, RequestError, Tool, ToolCall
from glm_core.records import ToolCallDelta, has_tool_messages, join_calls

QUESTION = Message("user", "weather?")
CALL = ToolCall("c1", "get_weather", '{"city": "北京"}')
OTHER = ToolCall("c2", "get_time")
ASKED = Message("assistant", "", (CALL, OTHER))
ANSWERS = (Message("tool", "22", tool_call_id="c1"), Message("tool", "", tool_call_id="c2"))
WEATHER, TIME = Tool("get_weather"), Tool("get_time")


def deep(levels: int) -> dict[str, Any]:
    """An object in an object in an object."""
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_tool_without_parameters_takes_none() -> None:
    """Left out, the schema is that of an object without properties."""
    assert Tool("f").parameters == {"type": "object", "properties": {}}
    assert Tool("a-B_9" + "x" * 59).name.endswith("x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "a tool's name must be 1 to 64 letters, digits, underscores and hyphens, got ''"),
        ({"name": "a b"}, "got 'a b'"),
        ({"name": "a\n"}, "got 'a\\n'"),
        ({"name": "天气"}, "got '天气'"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"name": 5}, "got 5"),
        ({"name": "auto"}, "a tool cannot be called 'auto', which is a tool_choice; rename it"),
        ({"name": "f", "description": None}, "the description of tool 'f' must be text, got NoneType"),
        ({"name": "f", "parameters": []}, "the parameters of tool 'f' must be a JSON schema, got list"),
        ({"name": "f", "parameters": {"a": {1}}}, "the parameters of tool 'f' are not JSON"),
        ({"name": "f", "parameters": {"a": float("nan")}}, "are not JSON"),
        ({"name": "f", "parameters": {"a": "\ud83d"}}, "are not JSON"),
        ({"name": "f", "parameters": deep(70)}, "are nested more than 64 levels deep; make them flatter"),
    ],
)
def test_tool_refuses_what_cannot_be_offered(fields: dict[str, Any], message: str) -> None:
    """Names, texts and schemas are checked when the record is built."""
    with pytest.raises(RequestError, match=re.escape(message)):
        Tool(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", "f", "{}"), "the id of a tool call must have 1 to 256 characters, got 0"),
        (("x" * 257, "f", "{}"), "1 to 256 characters, got 257"),
        ((5, "f", "{}"), "the id of a tool call must be text, got int"),
        (("1", "f\ng", "{}"), "a tool's name must be"),
        (("1", "f", ""), "the arguments of tool call '1' are not JSON"),
        (("1", "f", "{'a': 1}"), "are not JSON"),
        (("1", "f", "[1]"), "the arguments of tool call '1' must be a JSON object, got '[1]'"),
        (("1", "f", '{"a": NaN}'), "NaN is not a JSON number"),
        (("1", "f", '{"a": 1e999}'), "are not JSON"),
        (("1", "f", '{"a": "\\ud83d"}'), "are not JSON"),
        (("1", "f", '{"a": ' + "9" * 5000 + "}"), "are not JSON"),
        (("1", "f", '{"a": ' * 70 + "1" + "}" * 70), "nested more than 64 levels"),
        (("1", "f", '{"a": ' * 100_000), "are not JSON"),
        (("1", "f", {"a": 1}), "the arguments of tool call '1' must be text, got dict"),
    ],
)
def test_call_refuses_what_is_no_call(fields: Any, message: str) -> None:
    """Ids, names and the JSON of arguments are checked when the record is built."""
    with pytest.raises(RequestError, match=re.escape(message)):
        ToolCall(*fields)


def test_arguments_are_at_hand_as_values() -> None:
    """The JSON text of a call reads as a dictionary."""
    assert CALL.parsed_arguments == {"city": "北京"}
    assert OTHER.parsed_arguments == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("user", "", (CALL,)), "a message of the role user has tool calls; only an assistant's may"),
        (("assistant", "", [CALL]), "tool_calls must be a tuple of ToolCall records"),
        (("assistant", "", ("c1",)), "tool_calls must be a tuple of ToolCall records, got ('c1',)"),
        (("assistant", "", (CALL, CALL)), "two tool calls of one message have the id 'c1'"),
        (("tool", "22"), "the tool_call_id of a tool's message must have 1 to 256 characters, got 0"),
        (("user", "hi", (), "c1"), "a message of the role user has a tool_call_id; only a tool's may"),
    ],
)
def test_message_refuses_calls_and_answers_out_of_place(fields: Any, message: str) -> None:
    """Only an assistant calls, and only a tool answers a call, which it names."""
    with pytest.raises(RequestError, match=re.escape(message)):
        Message(*fields)


@pytest.mark.parametrize("answers", [ANSWERS, ANSWERS[::-1]])
def test_conversation_may_end_with_the_answers_of_tools(answers: tuple[Message, ...]) -> None:
    """Every call is answered once, in any order; then the model's turn has come."""
    assert ChatRequest((QUESTION, ASKED, *answers)).messages[-1].role == "tool"
    ChatRequest((QUESTION, ASKED, *answers, Message("assistant", "22 degrees"), QUESTION), tools=(WEATHER,))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((QUESTION, ASKED), "must end with a user's message or a tool's"),
        ((QUESTION, ASKED, ANSWERS[0]), "the tool call 'c2' is not answered"),
        ((QUESTION, ASKED, ANSWERS[0], QUESTION), "the tool call 'c2' is not answered"),
        ((QUESTION, ASKED, ANSWERS[0], ANSWERS[0]), "answers the call 'c1', which the assistant's message"),
        ((QUESTION, ANSWERS[0]), "answers the call 'c1', which the assistant's message before it does not"),
        ((QUESTION, ASKED, *ANSWERS, QUESTION, ANSWERS[0]), "answers the call 'c1'"),
    ],
)
def test_calls_and_answers_belong_together(messages: tuple[Message, ...], message: str) -> None:
    """An answer without its call, a call without an answer, and an answer given twice are refused."""
    with pytest.raises(RequestError, match=re.escape(message)):
        ChatRequest(messages)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [WEATHER]}, "tools must be a tuple of Tool records"),
        ({"tools": (WEATHER, WEATHER)}, "two tools are called 'get_weather'; rename one"),
        ({"tools": tuple(Tool(f"t{i}") for i in range(129))}, "at most 128 tools can be offered, got 129"),
        (
            {"tools": (WEATHER,), "tool_choice": "get_time"},
            "tool_choice 'get_time' is neither auto, none, required nor the name of an offered tool",
        ),
        ({"tool_choice": "required"}, "tool_choice 'required' needs tools; offer at least one"),
        ({"messages": (), "prompt": "x", "tools": (WEATHER,)}, "a bare prompt cannot have tools"),
    ],
)
def test_request_refuses_tools_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    """Tools and the choice among them are checked when the request is built."""
    with pytest.raises(RequestError, match=re.escape(message)):
        ChatRequest(**{"messages": (QUESTION,), **fields})


def test_request_may_choose_a_tool() -> None:
    """The choices of OpenAI's API, and any tool by its name."""
    for choice in ("auto", "none", "required", "get_time"):
        ChatRequest((QUESTION,), tools=(WEATHER, TIME), tool_choice=choice)


def test_conversations_with_tools_are_told_from_others() -> None:
    """A call or its answer makes the difference."""
    assert has_tool_messages([QUESTION, ASKED])
    assert has_tool_messages(ANSWERS)
    assert not has_tool_messages([QUESTION, Message("assistant", "hi")])


def test_pieces_of_calls_are_put_together_by_index() -> None:
    """Names come once, arguments in fragments, and calls may overlap."""
    pieces = [
        ToolCallDelta(0, "c1", "get_weather"),
        ToolCallDelta(1, "c2", "get_time", "{}"),
        ToolCallDelta(0, arguments='{"city": '),
        ToolCallDelta(0, arguments='"北京"}'),
    ]
    assert join_calls(pieces) == (CALL, OTHER)


def test_pieces_that_make_no_call_are_the_runtimes_fault() -> None:
    """Arguments that never became JSON are not handed on."""
    with pytest.raises(PluginError, match=containing("arguments", "'c1'", "JSON")):
        join_calls([ToolCallDelta(0, "c1", "f", "{")])
