"""One message as JSON, in the shape of OpenAI's chat API, so that files and requests can be exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from ..isolation import format_value
from ..messages import Message, ToolCall


def dump_message(message: Message) -> dict[str, Any]:
    """Return a message as an object for JSON; text is null where there are only tool calls."""
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        value["content"] = message.content or None
        value["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    return value


def parse_message(value: object) -> Message:
    """Return the message that a JSON object describes; keys that are not known are ignored.

    ``developer`` means ``system``, and content may be a list of parts of text, as at OpenAI.

    Raises:
        RequestError: naming the field that is wrong.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"a message must be an object with role and content, got {format_value(value)}")
    role, content, calls = value.get("role"), value.get("content"), value.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise RequestError(f"tool_calls must be a list, got {format_value(calls)}")
    if isinstance(content, list):
        content = "".join(map(_read_part, content))
    return Message(
        "system" if role == "developer" else role,  # type: ignore[arg-type]  # Message checks it
        "" if content is None and calls else content,  # type: ignore[arg-type]
        tuple(map(_read_call, calls or ())),
        value.get("tool_call_id") or "",
    )


def _read_part(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise RequestError(
            f'a part of content must be {{"type": "text", "text": ...}}, got {format_value(part)}'
        )
    return text


def _read_call(value: object) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping):
        raise RequestError(f"a tool call must be an object with id and function, got {format_value(value)}")
    return ToolCall(value.get("id"), function.get("name"), function.get("arguments"))  # type: ignore[arg-type]
