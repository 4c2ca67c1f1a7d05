"""The frozen records that pass between core and plugins; no torch types, no behaviour.

A plugin builds and reads them and adds no fields. Core may add fields with defaults in a minor
release; it renames or removes one only with a new `API_VERSION`. What a plugin says of itself is
defined in `glm_core.descriptions`, long jobs in `glm_core.jobs`, conversations in
`glm_core.messages`; all are offered here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ._checks import check_integer, check_number, check_text, check_token_ids
from ._not_set import NOT_SET as NOT_SET, NotSet as NotSet
from .descriptions import (
    BackendInfo as BackendInfo,
    DeviceInfo as DeviceInfo,
    FrontendInfo as FrontendInfo,
    ModelCard as ModelCard,
    ModelMatch as ModelMatch,
    OpenModel as OpenModel,
    Option as Option,
    RuntimeInfo as RuntimeInfo,
    TrainerInfo as TrainerInfo,
)
from .errors import RequestError
from .isolation import format_value
from .jobs import (
    PredictJob as PredictJob,
    PredictProgress as PredictProgress,
    QuantizationScheme as QuantizationScheme,
    QuantizeJob as QuantizeJob,
    QuantizeProgress as QuantizeProgress,
    TrainJob as TrainJob,
    TrainProgress as TrainProgress,
)
from .messages import (
    ROLES as ROLES,
    Message as Message,
    Role as Role,
    Tool as Tool,
    ToolCall as ToolCall,
    ToolCallDelta as ToolCallDelta,
    build_messages as build_messages,
    check_conversation,
    check_tools,
    has_tool_messages as has_tool_messages,
    join_calls as join_calls,
)

FinishReason = Literal["stop", "length", "tool_calls"]
FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "tool_calls")


@dataclass(frozen=True)
class Sampling:
    """Sampling: how the next token is chosen and how long an answer may get; ``None`` = the model's default.

    Attributes:
        max_new_tokens: tokens of the answer at most.
        max_length: tokens of prompt and answer together at most (the original's measure).
        temperature: logits are divided by it; 0 means greedy.
        top_p: smallest set of tokens whose probability exceeds it; 1 switches it off.
        top_k: only that many tokens; 0 switches it off.
        repetition_penalty: logits of tokens that occurred are divided (positive) or multiplied
            (negative) by it; 1 switches it off.
        presence_penalty: subtracted from the logits of tokens that the answer holds; 0 switches it off.
        frequency_penalty: likewise, once for each time; 0 switches it off.
        do_sample: ``False`` always takes the most likely token.
        ignore_eos: ``True`` goes on past the model's end of an answer, up to the length; for benchmarks.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    do_sample: bool | None = None
    ignore_eos: bool | None = None

    def __post_init__(self) -> None:
        check_integer("max_new_tokens", self.max_new_tokens, minimum=1)
        check_integer("max_length", self.max_length, minimum=1)
        check_integer("top_k", self.top_k, minimum=0)
        check_number("temperature", self.temperature, "0 or more", lambda value: value >= 0)
        check_number("top_p", self.top_p, "between 0 and 1", lambda value: 0 <= value <= 1)
        check_number("repetition_penalty", self.repetition_penalty, "more than 0", lambda value: value > 0)
        for name in ("presence_penalty", "frequency_penalty"):
            check_number(name, getattr(self, name), "between -2 and 2", lambda value: -2 <= value <= 2)
        for name in ("do_sample", "ignore_eos"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise RequestError(f"{name} must be true or false, got {format_value(value)}")

    def complete_with(self, defaults: Sampling) -> Sampling:
        """Return a copy in which every ``None`` is taken from ``defaults``."""
        return dataclasses.replace(
            defaults, **{name: value for name, value in vars(self).items() if value is not None}
        )


@dataclass(frozen=True)
class ChatRequest:
    """One request: an answer to a conversation, or bare text to go on from.

    Attributes:
        messages: the conversation; system messages first, the last one is the user's or a tool's.
        sampling: see `Sampling`.
        adapter: name of a loaded adapter; ``None`` = the base model.
        stop: the answer ends before the first of these strings.
        seed: makes sampling repeatable; ``None`` = a fresh one.
        prompt: instead of messages: text that the model goes on from, without any chat format; or
            token ids, which are taken as they are, control tokens included.
        tools: what the model may call; only for models that have the feature ``"tools"``.
        tool_choice: ``"auto"`` = the model's choice, ``"none"``, ``"required"``, or a tool's name.
        parallel_tool_calls: ``False`` ends the answer with its first call.
    """

    messages: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    adapter: str | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    prompt: str | tuple[int, ...] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True

    def __post_init__(self) -> None:
        if self.prompt is None:
            check_conversation(self.messages)
        elif self.messages:
            raise RequestError("a request has messages or a prompt, not both")
        elif self.tools:
            raise RequestError("a bare prompt cannot have tools; send messages")
        elif isinstance(self.prompt, tuple):
            check_token_ids("prompt", self.prompt)
        else:
            check_text("prompt", self.prompt)
        if not isinstance(self.stop, tuple) or not all(self.stop):
            raise RequestError(f"stop must be a tuple of non-empty strings, got {self.stop!r}")
        for stop in self.stop:
            check_text("a stop string", stop)
        check_integer("seed", self.seed, minimum=0, maximum=2**63 - 1)
        check_tools(self.tools, self.tool_choice)


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens: tokens of the prompt, control tokens included.
        completion_tokens: tokens decoded, the stop token not counted.
        dropped_messages: how many of the oldest messages did not fit and were left out.
        queue_seconds: seconds that the request waited before its prefill began.
        time_to_first_token: seconds from the request to the first decoded token, waiting included.
        decode_seconds: seconds from the first decoded token to the last.
        cached_tokens: of the prompt's, those whose keys and values were there already.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped_messages: int = 0
    queue_seconds: float = 0.0
    time_to_first_token: float = 0.0
    decode_seconds: float = 0.0
    cached_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Decode speed; 0 when fewer than two tokens were decoded."""
        gaps = max(self.completion_tokens - 1, 0)
        return gaps / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. The last one, and only that, has a ``finish_reason`` and ``usage``.

    Attributes:
        text: what to append; never half a character, never to be taken back; may be empty.
        token_ids: the ids decoded since the last delta.
        finish_reason: ``"stop"`` (the model or a stop string ended it), ``"tool_calls"`` (it ended
            so and holds calls) or ``"length"``.
        usage: see `Usage`.
        queue_position: place in the queue, 1 = the next to begin; more than 0 only in the empty
            deltas that a waiting request may send before its first token.
        tool_calls: pieces of calls, each valid as far as it goes; see `ToolCallDelta`.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    queue_position: int = 0
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded model, for banners, `/v1/models` and sliders.

    Attributes:
        name: what the user asked for.
        family: the architecture's name, such as ``"chatglm"``.
        num_parameters: weights of the network.
        context_length: tokens of prompt and answer that one request may use together.
        sampling: the model's own defaults, every field set but ``max_new_tokens``.
        adapters: names that a request may choose from.
        weight_bytes: memory of the weights, all of which one decode step reads; 0 = unknown.
        devices: names of the devices that it runs on; empty before it is placed.
        dtype: what it computes in, such as ``"bfloat16"``; empty = unknown.
        features: what requests may ask for beyond plain answers. Core knows ``"tools"``: requests
            may have tools and tool messages. A runtime may add words of its own.
    """

    name: str
    family: str
    num_parameters: int
    context_length: int
    sampling: Sampling
    adapters: tuple[str, ...] = ()
    weight_bytes: int = 0
    devices: tuple[str, ...] = ()
    dtype: str = ""
    features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModelLoad:
    """How busy a model is at one moment, for `/metrics`, `/ready` and benchmarks.

    Attributes:
        slots: sequences that can run at the same time.
        active: sequences that run now.
        waiting: requests in the queue.
        queue_capacity: requests that the queue takes; one more is refused with `BusyError`.
        kv_tokens: positions of the KV cache in use.
        kv_capacity: positions that there are.
        kv_bytes: memory reserved for the KV cache.
    """

    slots: int
    active: int
    waiting: int
    queue_capacity: int
    kv_tokens: int
    kv_capacity: int
    kv_bytes: int = 0


class LoadedModel(Protocol):
    """What core asks of the object that a runtime's ``load_model`` returns; the rest is the runtime's.

    Optional beside these: an attribute ``load`` (`ModelLoad`), and `AdapterHolder`'s two methods.
    """

    @property
    def info(self) -> ModelInfo:
        """Facts about the model as it is now; cheap."""
        ...

    def close(self) -> None:
        """Give back memory and threads; calling it again does nothing."""
        ...


@runtime_checkable
class AdapterHolder(Protocol):
    """A loaded model whose adapters may change while it answers; both calls come from any thread."""

    def add_adapter(self, name: str, directory: Path, inside: Path | None = None) -> None:
        """Load an adapter; requests may name it as soon as this returns.

        Args:
            name: what requests will call it.
            directory: where its files are.
            inside: read no file that is really elsewhere, whatever links say; ``None`` = anywhere.

        Raises:
            AdapterError: the name is taken, or the adapter is damaged or of another model.
            OutsideFolderError: a file to read is not inside ``inside``.
        """
        ...

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; requests that run or wait with it end as they would have.

        Raises:
            AdapterError: there is none of that name.
        """
        ...


@dataclass(frozen=True)
class ModelSource:
    """What to load.

    Attributes:
        name: as the user wrote it.
        path: directory with the checkpoint, or a file that is one by itself; ``None`` where the name
            itself is the source (a model behind another server) or the model is already in memory.
        adapters: adapter name to its directory.
        model: a model object that the caller already has, for runtimes that know its class.
        tokenizer: the tokenizer object that belongs to ``model``.
        family: which of its families the runtime shall take it for; ``auto`` = what the files say.
    """

    name: str
    path: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    model: Any = None
    tokenizer: Any = None
    family: str = "auto"


@dataclass(frozen=True)
class Placement:
    """Where the weights go.

    Attributes:
        devices: device names in order, such as ``("cuda:0", "cuda:1")``; all of one type.
        device_map: module name to device name or number, of users who split by hand; `NOT_SET` =
            as the backend finds best. With one device, core has checked that it names no other.
        slots: sequences to answer at the same time; `NOT_SET` = as many as suit the device.
        context_length: tokens that one request may use; `NOT_SET` = what the model was made for.
        kv_memory_bytes: memory that the KV cache may take; `NOT_SET` = what suits the device.
        kernels: one of the ``kernels`` that are described; ``"auto"`` = the plugin's own choice.
        notify: takes one line each of what was decided, for the user.
    """

    devices: tuple[str, ...]
    device_map: Mapping[str, str | int] | NotSet = NOT_SET
    slots: int | NotSet = NOT_SET
    context_length: int | NotSet = NOT_SET
    kv_memory_bytes: int | NotSet = NOT_SET
    kernels: str = "auto"
    notify: Callable[[str], None] = field(default=lambda line: None, compare=False, repr=False)


class DeltaStream(Iterator[Delta], Protocol):
    """What ``chat_stream`` returns, and ``ChatModel.stream``; any generator of deltas is one."""

    def close(self) -> None:
        """Cancel the answer; a generator raises ValueError if it runs at that moment on another thread."""
