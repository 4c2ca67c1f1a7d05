"""OpenAI's messages and tools as the core's."""

from __future__ import annotations

from glm_core import Message, RequestError, Tool
from glm_core.conversation import parse_message

from .errors import ApiError, build_invalid_error
from .schemas import ChatCompletionRequest, ChatMessage, NamedToolChoice, ToolDefinition
from .service import Service


def check_tools_supported(service: Service, body: ChatCompletionRequest) -> None:
    """Refuse tools, and conversations with them, where the model has no format for them.

    Raises:
        ApiError: 400, naming the field.
    """
    if "tools" in service.model.info.features:
        return
    if body.tools:
        raise _build_unsupported_error(service, "tools")
    if body.tool_choice not in (None, "none", "auto"):
        raise _build_unsupported_error(service, "tool_choice")
    for number, message in enumerate(body.messages):
        if message.tool_calls:
            raise _build_unsupported_error(service, f"messages[{number}].tool_calls")
        if message.role == "tool":
            raise _build_unsupported_error(service, f"messages[{number}].role")


def read_messages(body: ChatCompletionRequest) -> tuple[Message, ...]:
    """Return the messages of a conversation.

    Raises:
        ApiError: 400, naming the message that is wrong.
    """
    return tuple(
        _read_message(message, f"messages[{number}]") for number, message in enumerate(body.messages)
    )


def read_tools(body: ChatCompletionRequest) -> tuple[Tool, ...]:
    """Return the tools that are offered.

    Raises:
        ApiError: 400, naming the tool that is wrong.
    """
    return tuple(_read_tool(tool, f"tools[{number}]") for number, tool in enumerate(body.tools or ()))


def read_tool_choice(body: ChatCompletionRequest) -> str:
    """Return which tool has to be called, or whether any may.

    Raises:
        ApiError: 400, where the choice does not fit the tools.
    """
    if not isinstance(body.tool_choice, NamedToolChoice):
        if body.tool_choice == "required" and not body.tools:
            raise build_invalid_error("tool_choice: required needs tools; send them too", "tool_choice")
        return body.tool_choice or "auto"
    name = body.tool_choice.function.name
    if name not in {tool.function.name for tool in body.tools or ()}:
        raise build_invalid_error(f"tool_choice: {name} is not among the tools of the request", "tool_choice")
    return name


def _read_message(message: ChatMessage, param: str) -> Message:
    if message.content is None and not message.tool_calls:
        if "content" not in message.model_fields_set:
            raise build_invalid_error(f"{param}.content is missing", f"{param}.content", "missing_field")
        raise build_invalid_error(
            f"{param}.content: must be a string or a list, got null", f"{param}.content"
        )
    try:
        return parse_message(message.model_dump())
    except RequestError as error:
        raise build_invalid_error(f"{param}: {error}", param) from error


def _read_tool(tool: ToolDefinition, param: str) -> Tool:
    function = tool.function
    try:
        if function.parameters is None:
            return Tool(function.name, function.description or "")
        return Tool(function.name, function.description or "", function.parameters)
    except RequestError as error:
        raise build_invalid_error(f"{param}.function: {error}", f"{param}.function") from error


def _build_unsupported_error(service: Service, param: str) -> ApiError:
    return build_invalid_error(
        f"{param} is not supported here: {service.name} has no format for tools; leave it out",
        param,
        "unsupported_field",
    )
