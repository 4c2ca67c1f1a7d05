"""From OpenAI's messages and tools to the core's."""

from __future__ import annotations

from glm_core import Message, RequestError, Tool, ToolCall

from .errors import ApiError, invalid
from .schemas import ChatCompletionRequest, ChatMessage, NamedToolChoice, ToolDefinition
from .service import Service


def check_tools_known(service: Service, body: ChatCompletionRequest) -> None:
    """Refuse tools, and conversations with them, where the model has no format for them.

    Raises:
        ApiError: 400, naming the field.
    """
    if "tools" in service.model.info.features:
        return
    if body.tools:
        raise _not_supported(service, "tools")
    if body.tool_choice not in (None, "none", "auto"):
        raise _not_supported(service, "tool_choice")
    for number, message in enumerate(body.messages):
        if message.tool_calls:
            raise _not_supported(service, f"messages[{number}].tool_calls")
        if message.role == "tool":
            raise _not_supported(service, f"messages[{number}].role")


def messages_of(body: ChatCompletionRequest) -> tuple[Message, ...]:
    """The conversation.

    Raises:
        ApiError: 400, naming the message that is wrong.
    """
    return tuple(_message(message, f"messages[{number}]") for number, message in enumerate(body.messages))


def tools_of(body: ChatCompletionRequest) -> tuple[Tool, ...]:
    """The tools that are offered.

    Raises:
        ApiError: 400, naming the tool that is wrong.
    """
    return tuple(_tool(tool, f"tools[{number}]") for number, tool in enumerate(body.tools or ()))


def choice_of(body: ChatCompletionRequest) -> str:
    """Which tool has to be called, or whether any may.

    Raises:
        ApiError: 400, where the choice does not fit the tools.
    """
    if not isinstance(body.tool_choice, NamedToolChoice):
        if body.tool_choice == "required" and not body.tools:
            raise invalid("tool_choice: required needs tools; send them too", "tool_choice")
        return body.tool_choice or "auto"
    name = body.tool_choice.function.name
    if name not in {tool.function.name for tool in body.tools or ()}:
        raise invalid(f"tool_choice: {name} is none of the tools that the request has", "tool_choice")
    return name


def _message(message: ChatMessage, param: str) -> Message:
    if message.content is None and not message.tool_calls:
        if "content" not in message.model_fields_set:
            raise invalid(f"{param}.content is missing", f"{param}.content", "missing_field")
        raise invalid(f"{param}.content: must be a string or a list, got null", f"{param}.content")
    try:
        return Message(
            "system" if message.role == "developer" else message.role,
            message.text,
            tuple(
                ToolCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
            ),
            message.tool_call_id or "",
        )
    except RequestError as error:
        raise invalid(f"{param}: {error}", param) from error


def _tool(tool: ToolDefinition, param: str) -> Tool:
    function = tool.function
    try:
        if function.parameters is None:
            return Tool(function.name, function.description or "")
        return Tool(function.name, function.description or "", function.parameters)
    except RequestError as error:
        raise invalid(f"{param}.function: {error}", f"{param}.function") from error


def _not_supported(service: Service, param: str) -> ApiError:
    return invalid(
        f"{param} is not supported here: {service.name} has no format for tools; leave it out",
        param,
        "unsupported_field",
    )
