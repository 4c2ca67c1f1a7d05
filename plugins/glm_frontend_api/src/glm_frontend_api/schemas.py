"""What may stand in requests. Unknown fields are refused, and so is every value that would be ignored.

Every list stops at its first wrong element (``fail_fast``): a message names one fault, and a body could
hold a hundred thousand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

MAX_ANSWERS = 8
MAX_STOPS = 4
MAX_MESSAGES = 1024
MAX_TOOLS = 128
MAX_SEED = 2**63 - 1
MAX_TOKENS = 2**31 - 1

NonEmptyText = Annotated[str, StringConstraints(min_length=1)]


def _refuse_zero(value: Any) -> Any:
    if value == 0 and value is not False:  # Python takes 0 for False
        raise ValueError("expected false")
    return value


No = Annotated[Literal[False], BeforeValidator(_refuse_zero)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Empty = Annotated[dict[str, Any], Field(max_length=0)]


class Strict(BaseModel):
    """No unknown fields, no conversions, no infinities."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class TextPart(Strict):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class TextFormat(Strict):
    """Plain text, the only format."""

    type: Literal["text"]


ToolName = Annotated[str, StringConstraints(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Strict):
    """A function that the model may ask the client to run."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of an object")
    strict: bool | None = Field(None, description="accepted, without effect")


class ToolDefinition(Strict):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Strict):
    """Which function to call."""

    name: ToolName


class NamedToolChoice(Strict):
    """The one tool that the model has to call."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(Strict):
    """What the model wants to have run."""

    name: ToolName
    arguments: str = Field(description="JSON text of an object")


class MessageToolCall(Strict):
    """A call in an earlier answer."""

    id: NonEmptyText
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Strict):
    """One message; ``developer`` means the same as ``system``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = Field(
        None, description="only beside tool_calls null"
    )
    name: str | None = Field(None, description="accepted, without effect")
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[MessageToolCall], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_call_id: NonEmptyText | None = Field(None, description="of the role tool: the call that it answers")


class StreamOptions(Strict):
    """Only together with ``stream``."""

    include_usage: bool | None = Field(None, description="a last chunk tells the tokens used")
    include_obfuscation: No | None = None


class GenerationRequest(Strict):
    """The fields that chat and completion requests share."""

    model: str = Field(description="name from /v1/models, or default")
    stream: bool | None = Field(None, description="send the answer while it is made")
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="tokens of an answer at most")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKENS, description="extension: 0 switches it off")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, description="extension: 1 switches it off"
    )
    stop: NonEmptyText | Annotated[list[NonEmptyText], Field(fail_fast=True, max_length=MAX_STOPS)] | None = (
        None
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS, description="answers; answer i uses seed + i")
    logit_bias: Empty | None = None
    user: str | None = Field(None, description="accepted, without effect")

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, none, one or several."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatCompletionRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] = Field(
        min_length=1, max_length=MAX_MESSAGES, description="ends with a user's message or a tool's"
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="same as max_tokens")
    logprobs: No | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list[ToolDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = Field(
        None, description="functions that the model may call"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = Field(
        None, description="whether it may, or which one it has to"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: one call an answer")
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None
    service_tier: Literal["auto", "default"] | None = None
    store: No | None = None
    metadata: dict[str, str] | None = Field(None, description="accepted, without effect")
    safety_identifier: str | None = Field(None, description="accepted, without effect")
    prompt_cache_key: str | None = Field(None, description="accepted, without effect")


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: (
        NonEmptyText
        | Annotated[list[NonEmptyText], Field(fail_fast=True, min_length=1, max_length=MAX_ANSWERS)]
    )
    logprobs: None = None
    echo: No | None = None
    suffix: None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)


class AdapterRequest(Strict):
    """``POST /v1/adapters``."""

    name: NonEmptyText = Field(description="what requests will call it: letters, digits, '.', '_', '-'")
    path: NonEmptyText = Field(description="its directory, in the server's adapters folder")


OriginalTurn = Annotated[list[str], Field(fail_fast=True, min_length=2, max_length=2)]


class OriginalRequest(Strict):
    """``POST /``, as the original had it. 0 and null mean the model's own default."""

    prompt: str
    history: Annotated[list[OriginalTurn], Field(fail_fast=True)] | None = Field(
        None, max_length=MAX_MESSAGES, description="pairs of question and answer"
    )
    max_length: int | None = Field(None, ge=0, le=MAX_TOKENS, description="tokens of prompt and answer")
    top_p: float | None = Field(None, ge=0, le=1)
    temperature: float | None = Field(None, ge=0, le=100)
