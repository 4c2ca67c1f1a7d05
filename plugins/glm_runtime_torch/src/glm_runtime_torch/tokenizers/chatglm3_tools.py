"""ChatGLM3's format of tools: how they are offered, and how calls are written and read.

A call is a message whose first line is the tool's name, followed by Python in a fence:
``tool_call(city='北京', days=3)``. The original evaluates that text. Here nothing that a model wrote
is ever run: only a language of literals is let through to Python's parser, which then gives a tree.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from glm_core import Message, Tool, ToolCall

DEFAULT_SYSTEM = "Answer the following questions as best as you can. You have access to the following tools:"
MAX_DEPTH = 32  # of brackets; Python's parser recurses, and no real arguments are nested deeper
_FENCE = "```"
_FUNCTION = "tool_call"
_CALL = re.compile(rf"\s*{_FUNCTION}\s*")
_NAME = re.compile(r"[^\W\d]\w*")
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<string>\'\'\'(?:[^\\]|\\.)*?\'\'\' | \"\"\"(?:[^\\]|\\.)*?\"\"\"
        | '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*")
    | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
    | (?P<constant>(?:True|False|None)\b)
    | (?P<argument>[^\W\d]\w*)\s*=(?!=)
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<spread>\*\*)
    | (?P<mark>[,:])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([4-7][0-7]{2}|.)", re.DOTALL)
_ESCAPES = frozenset("\n\\'\"abfnrtvxuUN01234567")
# What may stand before what begins a value, so that the parser sees no operator, call or subscript
# and its recursion is bounded by the depth of brackets.
_BEFORE_VALUE = ("open", "mark", "argument", "spread")


class _NotALiteralError(Exception):
    """The text is not of the language of literals."""


def list_turns(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[tuple[str, str, str]]:
    """Yield role, metadata and content of each turn that a conversation becomes.

    The tools stand in the first system message; without one they come with the published sentence.
    Answers to several calls stand in the order of the calls, because a turn does not say which one
    it answers.
    """
    offered = json.dumps([_describe(tool) for tool in tools], indent=4, ensure_ascii=False)
    if tools and not any(message.role == "system" for message in messages):
        yield "system", "", f"{DEFAULT_SYSTEM}\n{offered}"
        tools = ()
    for message in _sort_answers(messages):
        if message.role == "system" and tools:
            yield "system", "", f"{message.content}\n{offered}"
            tools = ()
        elif message.role == "tool":
            yield "observation", "", message.content
        else:
            if message.content.strip() or not message.tool_calls:
                yield message.role, "", message.content
            for call in message.tool_calls:
                yield "assistant", call.name, format_call(call)


def format_call(call: ToolCall) -> str:
    """Return a call as the model writes it, below the line with the tool's name."""
    arguments = call.parsed_arguments
    named = [f"{name}={value!r}" for name, value in arguments.items() if _is_name(name)]
    others = {name: value for name, value in arguments.items() if not _is_name(name)}
    inside = ", ".join([*named, *([f"**{others!r}"] if others else [])])
    return f"{_FENCE}python\n{_FUNCTION}({inside})\n{_FENCE}"


def parse_call(text: str) -> str | None:
    """Return the arguments of a call as JSON, or ``None`` if the text is no call with literal arguments.

    Args:
        text: what stands below the tool's name.
    """
    head, _, rest = text.strip().partition("\n")
    if not head.startswith(_FENCE) or not rest.endswith(_FENCE):
        return None
    try:
        tree = ast.parse(_check_literals(rest.removesuffix(_FENCE)), mode="eval")
        arguments = _read_arguments(tree.body)
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (_NotALiteralError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return text


def _check_literals(code: str) -> str:
    """Return a call as Python's parser shall read it, with an underscore before each argument's name.

    The underscore lets arguments be called ``from`` or ``class``. Escapes that Python does not know
    keep their backslash, as Python would have it, but without a warning.

    Raises:
        _NotALiteralError: there is more in it than a call with literals.
    """
    begins = _CALL.match(code)
    if begins is None:
        raise _NotALiteralError
    out, place, previous, depth = [_FUNCTION], begins.end(), "argument", 0
    while place < len(code):
        token = _TOKEN.match(code, place)
        if token is None:
            raise _NotALiteralError
        kind, place, piece = str(token.lastgroup), token.end(), token.group()
        if kind == "space":
            out.append(" ")
            continue
        _check_order(previous, kind)
        depth += (kind == "open") - (kind == "close")
        if depth > MAX_DEPTH:
            raise _NotALiteralError
        if kind == "argument":
            piece = f"_{piece}"
        elif kind == "string":
            piece = _ESCAPE.sub(_keep_escape, piece)
        out.append(piece)
        previous = kind
    return "".join(out)


def _check_order(previous: str, kind: str) -> None:
    begins_value = kind in ("string", "number", "constant", "open")
    if begins_value and previous not in _BEFORE_VALUE and not previous == kind == "string":
        raise _NotALiteralError
    if kind in ("argument", "spread") and previous not in ("open", "mark"):
        raise _NotALiteralError


def _keep_escape(escape: re.Match[str]) -> str:
    if len(escape[1]) > 1:  # a character above 255 in octal, of which Python warns
        raise _NotALiteralError
    return escape[0] if escape[1] in _ESCAPES else f"\\{escape[0]}"


def _read_arguments(call: ast.expr) -> dict[str, Any]:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise _NotALiteralError
    arguments: dict[str, Any] = {}
    for keyword in call.keywords:
        value = ast.literal_eval(keyword.value)
        added = value if keyword.arg is None else {keyword.arg[1:]: value}
        if not isinstance(added, dict) or not _is_json(added) or added.keys() & arguments.keys():
            raise _NotALiteralError
        arguments |= added
    return arguments


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, int, float))


def _is_name(text: str) -> bool:
    """Return whether Python reads a text as a name, and as this one."""
    if text in ("True", "False", "None") or not _NAME.fullmatch(text):
        return False
    return text.isidentifier() and unicodedata.is_normalized("NFKC", text)


def _describe(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def _sort_answers(messages: Sequence[Message]) -> list[Message]:
    ordered: list[Message] = []
    rank: dict[str, int] = {}
    answers: list[Message] = []
    for message in messages:
        if message.role == "tool":
            answers.append(message)
            continue
        ordered += sorted(answers, key=lambda answer: rank.get(answer.tool_call_id, 0))
        answers = []
        rank = {call.id: index for index, call in enumerate(message.tool_calls)}
        ordered.append(message)
    return [*ordered, *sorted(answers, key=lambda answer: rank.get(answer.tool_call_id, 0))]
