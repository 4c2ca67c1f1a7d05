"""What responses look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from .schemas import Strict


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Strict):
    """Every error but those of ``POST /``."""

    error: ErrorDetail


class OriginalError(Strict):
    """Every error of ``POST /``."""

    error: str
    status: int
    time: str


class OriginalResponse(Strict):
    """The original's four fields."""

    response: str
    history: list[list[str]]
    status: int
    time: str


class PromptTokensResponse(Strict):
    """Of the prompt's tokens, those whose keys and values were there already."""

    cached_tokens: int


class UsageResponse(Strict):
    """Tokens used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensResponse


class FunctionCallResponse(Strict):
    """A function and its arguments, as JSON text."""

    name: str
    arguments: str


class ToolCallResponse(Strict):
    """A call that the client is asked to run."""

    id: str
    type: Literal["function"]
    function: FunctionCallResponse


class AssistantMessage(Strict):
    """An answer; without text only beside calls."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCallResponse] = Field(default_factory=list)


class ChatChoice(Strict):
    """One of ``n`` answers."""

    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: Literal["stop", "length", "tool_calls"]


class TextChoice(Strict):
    """One of ``n`` texts for each prompt."""

    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"]


class CompletedResponse(Strict):
    """What chat and completion responses share."""

    id: str
    created: int
    model: str
    usage: UsageResponse
    dropped_messages: int = 0


class ChatCompletionResponse(CompletedResponse):
    """A whole chat answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionResponse(CompletedResponse):
    """A whole completion."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelResponse(Strict):
    """One name that requests may use."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    parent: str | None


class DeletedResponse(Strict):
    """A name that requests may use no longer."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


class ModelListResponse(Strict):
    """All names."""

    object: Literal["list"]
    data: list[ModelResponse]


class StatusResponse(Strict):
    """``/health`` and ``/ready``."""

    status: str
