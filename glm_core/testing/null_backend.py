"""The smallest complete plugin that can chat: a runtime and a backend that need no hardware.

Its one model, ``null``, answers with the words of the question. Everything that core, frontends
and the conformance checks rely on is here: describing, declining, one final delta, cancelling.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from glm_core import hookimpl
from glm_core.errors import ClosedError
from glm_core.records import (
    BackendInfo,
    ChatRequest,
    Delta,
    DeviceInfo,
    ModelCard,
    ModelInfo,
    ModelSource,
    Placement,
    Sampling,
    Usage,
)

GLM_API_VERSION = 1

DEFAULTS = Sampling(
    max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True
)


@dataclass
class NullModel:
    """A model without weights."""

    name: str
    adapters: tuple[str, ...] = ()
    closed: bool = False
    active: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return ModelInfo(self.name, "null", 0, 2048, DEFAULTS, self.adapters)

    def close(self) -> None:
        """Mark the model closed."""
        self.closed = True


@hookimpl
def describe_backend() -> BackendInfo:
    """One device that is always there, below every real one."""
    return BackendInfo("null", (DeviceInfo("null", "null", "no hardware at all"),), priority=-1)


@hookimpl
def describe_models() -> tuple[ModelCard, ...]:
    """The one model, known by its name alone."""
    return (ModelCard("null", "answers with the words of the question"),)


@hookimpl
def load_model(source: ModelSource) -> NullModel | None:
    """Accept the name ``null`` and decline everything else."""
    return NullModel(source.name, tuple(sorted(source.adapters))) if source.name == "null" else None


@hookimpl
def place(model: object, placement: Placement) -> NullModel | None:
    """There is nothing to put anywhere."""
    return model if isinstance(model, NullModel) else None


@hookimpl
def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta] | None:
    """Check the request now, answer as the iterator is read."""
    if not isinstance(model, NullModel):
        return None
    if model.closed:
        raise ClosedError("the null model was closed")
    return _echo(model, request)


def _echo(model: NullModel, request: ChatRequest) -> Iterator[Delta]:
    text = request.messages[-1].content if request.prompt is None else request.prompt
    words = text.split()
    limit = request.sampling.max_new_tokens or len(words)
    started = time.perf_counter()
    with model.lock:
        model.active += 1
    try:
        for number, word in enumerate(words[:limit]):
            yield Delta(f" {word}" if number else word, (number,))
        usage = Usage(
            prompt_tokens=len(words),
            completion_tokens=min(limit, len(words)),
            decode_seconds=time.perf_counter() - started,
        )
        yield Delta("", (), "length" if limit < len(words) else "stop", usage)
    finally:  # reached on the last delta and when the caller closes the stream early
        with model.lock:
            model.active -= 1
