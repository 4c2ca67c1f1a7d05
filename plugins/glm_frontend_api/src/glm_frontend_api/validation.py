"""One sentence for what is wrong with a request, naming the field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ApiError, build_invalid_error
from .schemas import (
    AdapterRequest,
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    FunctionCall,
    FunctionDefinition,
    MessageToolCall,
    NamedToolChoice,
    OriginalRequest,
    StreamOptions,
    TextFormat,
    TextPart,
    ToolDefinition,
)

_MODELS = (
    *(ChatCompletionRequest, CompletionRequest, OriginalRequest),
    *(ChatMessage, TextPart, TextFormat, StreamOptions, AdapterRequest),
    *(ToolDefinition, FunctionDefinition, NamedToolChoice, MessageToolCall, FunctionCall),
)
_FIELDS = {name for model in _MODELS for name in model.model_fields}
# Fields of OpenAI's API that may only say "nothing of that"; to ignore them would be a wrong answer.
_NOT_SUPPORTED = {
    "logprobs": "false or null",
    "top_logprobs": "0 or null",
    "functions": "an empty list or null",
    "function_call": "null",
    "response_format": '{"type": "text"} or null',
    "logit_bias": "an empty object or null",
    "modalities": '["text"] or null',
    "audio": "null",
    "prediction": "null",
    "reasoning_effort": "null",
    "verbosity": "null",
    "web_search_options": "null",
    "service_tier": '"auto", "default" or null',
    "store": "false or null",
    "echo": "false or null",
    "suffix": "null",
    "best_of": "1 or null",
    "refusal": "null",
    "annotations": "an empty list or null",
    "include_obfuscation": "false or null",
}
_MAX_SHOWN = 60  # characters of a wrong value in a message
_FORMS = {"string_type": "a string", "list_type": "a list"}


def describe_refusal(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the error to send for what validation found.

    Where a field may have several forms, each complains; the complaint that reaches deepest is
    about the form that was meant, and one about a value says more than one about a type.

    Args:
        errors: as pydantic gives them.
    """
    located = [(error, _locate(error)) for error in errors]
    error, path = max(located, key=lambda pair: (len(pair[1]), pair[0]["type"] not in _FORMS))
    param = _format_path(path)
    if not path:
        return build_invalid_error(f"the body must be a JSON object, got {_format_json(error.get('input'))}")
    for depth, part in enumerate(path, start=1):
        unknown = error["type"] == "extra_forbidden" and depth == len(path)  # on this route, that is
        if part in _NOT_SUPPORTED and not unknown:
            accepted, param = _NOT_SUPPORTED[str(part)], _format_path(path[:depth])
            return build_invalid_error(
                f"{param} is not supported here; leave it out (accepted: {accepted})",
                param,
                "unsupported_field",
            )
    if error["type"] == "extra_forbidden":
        return build_invalid_error(
            f"{param} is not a field of this route; leave it out", param, "unknown_field"
        )
    if error["type"] == "missing":
        return build_invalid_error(f"{param} is missing", param, "missing_field")
    forms = [
        _FORMS[each["type"]] for each, its_path in located if its_path == path and each["type"] in _FORMS
    ]
    message = f"must be {' or '.join(dict.fromkeys(forms))}"
    if error["type"] not in _FORMS:
        message = str(error["msg"])[:1].lower() + str(error["msg"])[1:]
    return build_invalid_error(f"{param}: {message}, got {_format_json(error.get('input'))}", param)


def _locate(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Return where in the body: names and numbers, without pydantic's names for the forms of a union."""
    where = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        return (*(part for part in where[:-1] if part in _FIELDS or isinstance(part, int)), where[-1])
    return tuple(part for part in where if part in _FIELDS or isinstance(part, int))


def _format_path(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{str(part)[:64]}" if text else str(part)[:64]
    return text


def _format_json(value: Any) -> str:
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        text += part[:_MAX_SHOWN]  # piece by piece, since the value may be all of a large body
        if len(text) > _MAX_SHOWN:
            return f"{text[: _MAX_SHOWN - 1]}…"
    return text
