"""What a conversation is made of: messages, the tools that a model may call, and its calls.

A tool is a function of the caller's. The model never runs it: it names it and its arguments, the
caller runs it and answers the call with a message of the role ``tool``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from ._checks import check_text, check_tuple_of, to_tuple
from .errors import PluginError, RequestError
from .isolation import format_value

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

TOOL_CHOICES = ("auto", "none", "required")
MAX_TOOLS = 128  # as OpenAI's API; all of them stand in the prompt
MAX_CALL_ID = 256  # characters; an id is a random word, and every later message repeats it
MAX_DEPTH = 64  # far below Python's recursion limit, which json and templates would hit
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Tool:
    """A function that the model may ask the caller to run.

    Attributes:
        name: 1 to 64 letters, digits, underscores and hyphens.
        description: what it does, for the model.
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __post_init__(self) -> None:
        _check_tool_name(self.name)
        if self.name in TOOL_CHOICES:
            raise RequestError(f"a tool cannot be called {self.name!r}, which is a tool_choice; rename it")
        check_text(f"the description of tool {self.name!r}", self.description)
        if not isinstance(self.parameters, Mapping):
            raise RequestError(
                f"the parameters of tool {self.name!r} must be a JSON schema, "
                f"got {type(self.parameters).__name__}"
            )
        _check_json(f"the parameters of tool {self.name!r}", dict(self.parameters))


@dataclass(frozen=True)
class ToolCall:
    """The model's wish to have a tool run.

    Attributes:
        id: names the call in the message that answers it.
        name: of the tool.
        arguments: JSON text of an object.
    """

    id: str
    name: str
    arguments: str = "{}"

    def __post_init__(self) -> None:
        _check_call_id("the id of a tool call", self.id)
        _check_tool_name(self.name)
        check_text(f"the arguments of tool call {self.id!r}", self.arguments)
        try:
            parsed = json.loads(self.arguments, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the arguments of tool call {self.id!r} are not JSON: {error}") from error
        _check_json(f"the arguments of tool call {self.id!r}", parsed)
        if not isinstance(parsed, dict):
            raise RequestError(
                f"the arguments of tool call {self.id!r} must be a JSON object, got {self.arguments[:60]!r}"
            )

    @property
    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments by name."""
        parsed: dict[str, Any] = json.loads(self.arguments)
        return parsed


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call in a stream; those of one index, put together, make the call.

    Attributes:
        index: which of the answer's calls, from 0.
        id: of the call, in its first piece; empty in others.
        name: of the tool, likewise.
        arguments: what to append to the JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: whose it is; ``tool`` answers a call.
        content: its text; may be empty.
        tool_calls: of an assistant's message: what it asks to have run.
        tool_call_id: of a tool's message, and only there: the call that it answers.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RequestError(f"role {self.role!r} is unknown; expected one of {', '.join(ROLES)}")
        check_text("message content", self.content)
        if self.tool_calls and self.role != "assistant":
            raise RequestError(f"a message of the role {self.role} has tool calls; only an assistant's may")
        check_tuple_of("tool_calls", self.tool_calls, ToolCall)
        ids = [call.id for call in self.tool_calls]
        if len(set(ids)) < len(ids):
            raise RequestError(f"two tool calls of one message have the id {max(ids, key=ids.count)!r}")
        if self.role == "tool":
            _check_call_id("the tool_call_id of a tool's message", self.tool_call_id)
        elif self.tool_call_id:
            raise RequestError(f"a message of the role {self.role} has a tool_call_id; only a tool's may")


def build_messages(
    history: Iterable[Message] | Iterable[Sequence[str]] | None, prompt: str, system: str | None = None
) -> tuple[Message, ...]:
    """Return the conversation that ``prompt`` continues, from pairs or messages.

    Args:
        history: ``(question, answer)`` pairs as in the original, or `Message` records.
        prompt: the new question.
        system: text of a system message to put in front.

    Raises:
        RequestError: an element is neither, or both kinds are mixed.
    """
    messages: list[Message] = [Message("system", system)] if system else []
    kinds: set[type] = set()
    for element in to_tuple("history", history or ()):
        if isinstance(element, Message):
            messages.append(element)
            kinds.add(Message)
        elif isinstance(element, (tuple, list)) and len(element) == 2:
            messages += [Message("user", element[0]), Message("assistant", element[1])]
            kinds.add(tuple)
        else:
            raise RequestError(
                f"history element {format_value(element)} is neither a (question, answer) pair nor a "
                "Message; pass a list of one kind"
            )
    if len(kinds) > 1:
        raise RequestError("the history mixes (question, answer) pairs and Messages; pass a list of one kind")
    return (*messages, Message("user", prompt))


def join_calls(pieces: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """Return the calls that all pieces of an answer make.

    Raises:
        PluginError: they make none; the runtime is wrong.
    """
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
        for name in call:
            call[name] += getattr(piece, name)
    try:
        return tuple(ToolCall(**calls[index]) for index in sorted(calls))
    except RequestError as error:
        raise PluginError(f"the answer is broken: {error}; report this to the runtime's author") from error


def has_tool_messages(messages: Iterable[Message]) -> bool:
    """Return whether a tool was called or answered in a conversation."""
    return any(message.tool_calls or message.role == "tool" for message in messages)


def check_conversation(messages: Sequence[Message]) -> None:
    """Refuse a conversation that cannot be answered, or in which a call has no result right after it.

    Raises:
        RequestError: it does not end with a question or a tool's answer, a call is not answered by
            the messages right after it, or an answer has no call.
    """
    if not all(isinstance(message, Message) for message in messages):
        raise RequestError(f"messages must be Message records, got {messages!r}")
    if not messages or messages[-1].role not in ("user", "tool"):
        raise RequestError("a conversation must end with a user's message or a tool's; add the question")
    if messages[-1].role == "user" and not messages[-1].content.strip():
        raise RequestError("the question is empty; type something to answer")
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise RequestError(
                    f"a tool's message answers the call {message.tool_call_id!r}, which the assistant's "
                    "message before it does not make; send that message too, and one answer to each call"
                )
            waiting.remove(message.tool_call_id)
        else:
            _check_answered(waiting)
            waiting = [call.id for call in message.tool_calls]
    _check_answered(waiting)


def check_tools(tools: tuple[Tool, ...], choice: str) -> None:
    """Raise `RequestError` for tools of equal names, too many of them, or a choice that they do not allow."""
    check_tuple_of("tools", tools, Tool)
    names = [tool.name for tool in tools]
    if len(names) > MAX_TOOLS:
        raise RequestError(f"at most {MAX_TOOLS} tools can be offered, got {len(names)}")
    if len(set(names)) < len(names):
        raise RequestError(f"two tools are called {max(names, key=names.count)!r}; rename one")
    if choice not in (*TOOL_CHOICES, *names):
        raise RequestError(
            f"tool_choice {choice!r} is neither {', '.join(TOOL_CHOICES)} nor the name of an offered tool"
        )
    if choice == "required" and not names:
        raise RequestError("tool_choice 'required' needs tools; offer at least one")


def _check_answered(waiting: Sequence[str]) -> None:
    if waiting:
        raise RequestError(
            f"the tool call {waiting[0]!r} is not answered; a tool's message for each call must follow it"
        )


def _check_tool_name(name: object) -> None:
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise RequestError(
            f"a tool's name must be 1 to 64 letters, digits, underscores and hyphens, got {name!r}"
        )


def _check_call_id(what: str, value: object) -> None:
    check_text(what, value)
    if not value or len(str(value)) > MAX_CALL_ID:
        raise RequestError(f"{what} must have 1 to {MAX_CALL_ID} characters, got {len(str(value))}")


def _check_json(what: str, value: object) -> None:
    """Refuse what cannot be written as JSON in UTF-8, and what is nested too deeply to work on."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{what} are not JSON: {error}") from error
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            member
            for outer in level
            if isinstance(outer, (dict, list, tuple))
            for member in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise RequestError(f"{what} are nested more than {MAX_DEPTH} levels deep; make them flatter")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
