"""The frozen records that pass between core and plugins; no torch types, no behaviour.

A plugin builds and reads them and adds no fields. Core may add fields with defaults in a minor
release; it renames or removes one only with a new `API_VERSION`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ._checks import check_integer, check_number
from .errors import RequestError

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RequestError(f"role {self.role!r} is unknown; expected one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise RequestError(f"message content must be text, got {type(self.content).__name__}")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and how long an answer may get; ``None`` = the model's own default.

    Attributes:
        max_new_tokens: tokens of the answer at most.
        max_length: tokens of prompt and answer together at most (the original's measure).
        temperature: logits are divided by it; 0 means greedy.
        top_p: smallest set of tokens whose probability exceeds it; 1 switches it off.
        top_k: only that many tokens; 0 switches it off.
        repetition_penalty: logits of tokens that occurred are divided (positive) or multiplied
            (negative) by it; 1 switches it off.
        do_sample: ``False`` always takes the most likely token.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None

    def __post_init__(self) -> None:
        check_integer("max_new_tokens", self.max_new_tokens, minimum=1)
        check_integer("max_length", self.max_length, minimum=1)
        check_integer("top_k", self.top_k, minimum=0)
        check_number("temperature", self.temperature, "0 or more", lambda value: value >= 0)
        check_number("top_p", self.top_p, "between 0 and 1", lambda value: 0 <= value <= 1)
        check_number("repetition_penalty", self.repetition_penalty, "more than 0", lambda value: value > 0)
        if self.do_sample is not None and not isinstance(self.do_sample, bool):
            raise RequestError(f"do_sample must be true or false, got {self.do_sample!r}")

    def or_else(self, defaults: Sampling) -> Sampling:
        """A copy in which every ``None`` is taken from ``defaults``."""
        return dataclasses.replace(
            defaults, **{name: value for name, value in vars(self).items() if value is not None}
        )


@dataclass(frozen=True)
class ChatRequest:
    """One request for an answer to a conversation that ends with a user's message.

    Attributes:
        messages: the conversation; system messages first, the last one is the user's.
        sampling: see `Sampling`.
        adapter: name of a loaded adapter; ``None`` = the base model.
        stop: the answer ends before the first of these strings.
        seed: makes sampling repeatable; ``None`` = a fresh one.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise RequestError("a conversation must end with a user's message; add the question")
        if not self.messages[-1].content.strip():
            raise RequestError("the question is empty; type something to answer")
        if any(not isinstance(stop, str) or not stop for stop in self.stop):
            raise RequestError(f"stop strings must be non-empty text, got {self.stop!r}")
        check_integer("seed", self.seed, minimum=0, maximum=2**63 - 1)


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens: tokens that were prefilled, control tokens included.
        completion_tokens: tokens decoded, the stop token not counted.
        dropped_messages: how many of the oldest messages did not fit and were left out.
        time_to_first_token: seconds from the request to the first decoded token.
        decode_seconds: seconds from the first decoded token to the last.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped_messages: int = 0
    time_to_first_token: float = 0.0
    decode_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decode speed; 0 when fewer than two tokens were decoded."""
        return (self.completion_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. The last one, and only that, has a ``finish_reason`` and ``usage``.

    Attributes:
        text: what to append; never half a character, never to be taken back; may be empty.
        token_ids: the ids decoded since the last delta.
        finish_reason: ``"stop"`` (the model or a stop string ended it) or ``"length"``.
        usage: see `Usage`.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


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
    """

    name: str
    family: str
    num_parameters: int
    context_length: int
    sampling: Sampling
    adapters: tuple[str, ...] = ()


class LoadedModel(Protocol):
    """What core asks of the object that a runtime's ``load_model`` returns; the rest is the runtime's."""

    @property
    def info(self) -> ModelInfo:
        """Facts about the model; cheap."""
        ...

    def close(self) -> None:
        """Give back memory and threads; calling it again does nothing."""
        ...


@dataclass(frozen=True)
class ModelSource:
    """What to load.

    Attributes:
        name: as the user wrote it.
        path: directory with the checkpoint; ``None`` where the name itself is the source (a
            model behind another server) or the model is already in memory.
        adapters: adapter name to its directory.
        model: a model object that the caller already has, for runtimes that know its class.
        tokenizer: the tokenizer object that belongs to ``model``.
    """

    name: str
    path: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    model: Any = None
    tokenizer: Any = None


@dataclass(frozen=True)
class QuantizationScheme:
    """How weights are stored; symmetric, weight-only.

    Attributes:
        bits: 8 or 4.
        group_size: input features that share a scale; 0 = one scale per output row.
    """

    bits: int
    group_size: int = 0

    def __str__(self) -> str:
        return f"int{self.bits}" + (f" group {self.group_size}" if self.group_size else "")


@dataclass(frozen=True)
class Placement:
    """Where the weights go.

    Attributes:
        devices: device names in order, such as ``("cuda:0", "cuda:1")``; all of one type.
        device_map: module name to device name, for users who split by hand.
    """

    devices: tuple[str, ...]
    device_map: Mapping[str, str] | None = None


@dataclass(frozen=True)
class DeviceInfo:
    """One device as its backend sees it, without touching a driver more than needed.

    Attributes:
        name: what ``--device`` takes: ``"cpu"``, ``"cuda:0"``.
        type: the part before the colon.
        label: for people, such as ``"AMD EPYC, 2 cores, AVX-512"``.
        available: whether a model can run there now.
        reason: why not, or what to know.
        memory_bytes: total memory; 0 = unknown.
        free_memory_bytes: what a model could take now; 0 = unknown.
        dtypes: names that ``--dtype`` may take there, the one ``auto`` takes first.
        dtype_reason: why ``auto`` takes that one.
    """

    name: str
    type: str
    label: str
    available: bool = True
    reason: str = ""
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    dtypes: tuple[str, ...] = ("float32",)
    dtype_reason: str = ""


@dataclass(frozen=True)
class BackendInfo:
    """What a hardware backend offers.

    Attributes:
        name: the backend's name.
        devices: what it sees, absent ones included if it can say why.
        priority: ``--device auto`` takes the available device of highest priority (CPU is 0).
        schemes: what its ``quantize`` hook takes, such as ``("int8", "int4")``.
    """

    name: str
    devices: tuple[DeviceInfo, ...]
    priority: int = 0
    schemes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option of a frontend or trainer; core makes the command-line flag of it.

    Attributes:
        name: as in Python, ``"server_port"``; the flag is ``--server-port``.
        help: one line.
        type: ``str``, ``int``, ``float`` or ``bool`` (a bare flag).
        default: what it is when not given.
    """

    name: str
    help: str
    type: type = str
    default: Any = None


OpenModel = Callable[[], Any]
"""Opens the chosen model when called; returns a `glm_core.ChatModel`."""


@dataclass(frozen=True)
class FrontendInfo:
    """What a frontend offers.

    Attributes:
        name: ``glm run NAME``.
        summary: one line for ``glm run --help``.
        run: ``"package.module:function"``, imported only when the frontend is started; called as
            ``function(open_model, options)`` with an `OpenModel` and a mapping of option values.
            It checks its options (a port in use) before it opens the model, and returns when
            the user is done.
        options: its own options.
    """

    name: str
    summary: str
    run: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """A model that is known by name.

    Attributes:
        name: what ``--model`` takes.
        summary: one line.
        path: directory of a model that a package ships.
        hub_id: id on Hugging Face's hub.
        modelscope_id: id on ModelScope.
        aliases: other spellings.
        license: short name of the weights' licence.
    """

    name: str
    summary: str
    path: Path | None = None
    hub_id: str | None = None
    modelscope_id: str | None = None
    aliases: tuple[str, ...] = ()
    license: str = ""


@dataclass(frozen=True)
class TrainerInfo:
    """What a trainer offers: ``glm train NAME`` with its own options."""

    name: str
    summary: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class TrainJob:
    """A training job.

    Attributes:
        trainer: name of the trainer that shall run it.
        output_dir: where checkpoints and logs go; a job found there is resumed.
        options: the trainer's options by name.
    """

    trainer: str
    output_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainProgress:
    """One report of a running job; the last one has ``finished`` set.

    Attributes:
        step: optimiser steps done.
        total_steps: steps of the whole job.
        loss: mean loss since the last report.
        learning_rate: now.
        message: something worth telling a person, or empty.
        checkpoint: directory of the newest complete checkpoint.
        metrics: scores by name.
        finished: whether the job is done.
    """

    step: int
    total_steps: int
    loss: float | None = None
    learning_rate: float | None = None
    message: str = ""
    checkpoint: Path | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False


DeltaStream = Iterator[Delta]
"""What ``chat_stream`` returns; has ``close()``, which cancels (any generator does)."""


def as_messages(
    history: Iterable[Message] | Iterable[Sequence[str]] | None, prompt: str, system: str | None = None
) -> tuple[Message, ...]:
    """The conversation that ``prompt`` continues, from pairs or messages.

    Args:
        history: ``(question, answer)`` pairs as in the original, or `Message` records.
        prompt: the new question.
        system: text of a system message to put in front.

    Raises:
        RequestError: an element is neither.
    """
    messages: list[Message] = [Message("system", system)] if system else []
    for element in history or ():
        if isinstance(element, Message):
            messages.append(element)
        elif isinstance(element, (tuple, list)) and len(element) == 2:
            messages += [Message("user", element[0]), Message("assistant", element[1])]
        else:
            raise RequestError(
                f"history element {element!r} is neither a (question, answer) pair nor a Message; "
                "pass a list of one kind"
            )
    return (*messages, Message("user", prompt))
