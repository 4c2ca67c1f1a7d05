"""Single messages in the JSON of OpenAI's chat API."""

from __future__ import annotations

from typing import Any

import pytest

from glm_core import Message, RequestError, ToolCall
from glm_core.conversation import dump_message, parse_message

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "message",
    [
        Message("user", "你好\r\n"),
        Message("assistant", "text", (ToolCall("c", "f", '{"a": 1}'), ToolCall("d", "g"))),
        Message("assistant", "", (ToolCall("c", "f"),)),
        Message("tool", "", tool_call_id="c"),
    ],
    ids=["user", "calls", "only calls", "tool"],
)
def test_messages_come_back_as_they_were(message: Message) -> None:
    """Writing and reading is the identity; nothing is cleaned here."""
    assert parse_message(dump_message(message)) == message


def test_calls_without_text_have_no_content() -> None:
    """As clients of OpenAI's API expect it."""
    assert dump_message(Message("assistant", "", (ToolCall("c", "f"),))) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL],
    }


def test_other_spellings_of_openai_are_understood() -> None:
    """``developer`` is ``system``, content may come in parts, and further keys mean nothing."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    value = {"role": "developer", "content": parts, "name": "x"}
    assert parse_message(value) == Message("system", "ab")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("x", "role and content"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": 3}, "content"),
        ({"role": "user", "content": [{"type": "image"}]}, "part of content"),
        ({"role": "assistant", "content": None}, "content"),
        ({"role": "robot", "content": "x"}, "role"),
        ({"role": [], "content": "x"}, "role"),
        ({"role": "assistant", "content": "", "tool_calls": {}}, "tool_calls"),
        ({"role": "assistant", "content": "", "tool_calls": ["x"]}, "tool call"),
        ({"role": "assistant", "content": "", "tool_calls": [{**CALL, "function": {}}]}, "name"),
        ({"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": None}]}, "id of a tool call"),
        ({"role": "user", "content": "", "tool_calls": [CALL]}, "tool calls"),
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": 3}, "tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "tool_call_id"),
    ],
)
def test_wrong_shapes_are_refused_by_field(value: Any, field: str) -> None:
    """Each way in which a message can be wrong names its field."""
    with pytest.raises(RequestError, match=field):
        parse_message(value)
