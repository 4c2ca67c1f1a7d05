"""The llama.cpp runtime asked by many: places in the queue, giving up, failing, closing."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from api_support import until
from tiny_gguf import open_gguf

from glm_core import (
    BusyError,
    ChatModel,
    ChatRequest,
    ClosedError,
    DeviceError,
    Message,
    Sampling,
)
from glm_core.chat_model import collect


class GatedEngine:
    """Gives one token for each release, and stops when it is told to."""

    used = 0
    reused = 0

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)

    def generate(
        self, prompt: object, sampling: object, seed: object, is_cancelled: Any
    ) -> Iterator[int]:  # the example's own signature
        while not is_cancelled():
            if self.steps.acquire(timeout=0.01):
                yield 300
        return


@pytest.fixture
def gated(llamacpp: ModuleType, tiny_gguf: Path) -> Iterator[tuple[ChatModel, GatedEngine]]:
    """A model whose tokens wait for the test."""
    with open_gguf(llamacpp, tiny_gguf) as model:
        engine = GatedEngine()
        loaded: Any = model.loaded
        loaded._engine = engine
        yield model, engine


def test_waiting_requests_are_told_their_place(gated: tuple[ChatModel, GatedEngine]) -> None:
    """It falls when one before is answered, or is given up."""
    model, engine = gated
    request = ChatRequest((Message("user", "hi"),), Sampling(max_new_tokens=1))
    first, second, third = (model.stream(request) for _ in range(3))
    until(lambda: model.load is not None and model.load.active == 1)
    fourth = model.stream(request)
    assert model.load is not None
    assert (model.load.active, model.load.waiting) == (1, 3)
    assert next(fourth).queue_position == 3
    second.close()
    assert model.load.waiting == 2
    engine.steps.release()
    assert collect(first)[1].finish_reason == "length"
    assert next(fourth).queue_position == 1
    engine.steps.release()
    assert collect(third)[1].finish_reason == "length"
    engine.steps.release()
    assert collect(fourth)[1].finish_reason == "length"


def test_queue_has_an_end(gated: tuple[ChatModel, GatedEngine]) -> None:
    """One request too many may try again later; those given up make room."""
    model, _ = gated
    request = ChatRequest((Message("user", "hi"),))
    running = model.stream(request)
    until(lambda: model.load is not None and model.load.active == 1)
    assert model.load is not None
    waiting = [model.stream(request) for _ in range(model.load.queue_capacity)]
    with pytest.raises(BusyError, match="queue"):
        model.stream(request)
    waiting[0].close()
    model.stream(request).close()
    running.close()


def test_forgotten_answer_is_cancelled(gated: tuple[ChatModel, GatedEngine]) -> None:
    """A reader who lets go of an answer need not close it."""
    model, engine = gated
    engine.steps.release()
    request = ChatRequest((Message("user", "hi"),))
    streams = [model.stream(request)]
    until(lambda: next(streams[0]).token_ids)
    streams.clear()
    gc.collect()
    until(lambda: model.load is not None and model.load.active == 0)


def test_failure_is_one_answers_own(gated: tuple[ChatModel, GatedEngine]) -> None:
    """The next request is answered."""
    model, engine = gated

    def fail(*_: object) -> Iterator[int]:
        raise DeviceError("llama_decode returned -3")

    loaded: Any = model.loaded
    loaded._engine = SimpleNamespace(generate=fail, reused=0, used=0)
    request = ChatRequest((Message("user", "hi"),), Sampling(max_new_tokens=1))
    with pytest.raises(DeviceError, match="-3"):
        collect(model.stream(request))
    loaded._engine = engine
    engine.steps.release()
    assert collect(model.stream(request))[1].finish_reason == "length"


def test_closed_model_ends_what_waits(gated: tuple[ChatModel, GatedEngine]) -> None:
    """Readers of running and waiting answers get `ClosedError`, and so does the next request."""
    model, _ = gated
    request = ChatRequest((Message("user", "hi"),))
    streams = [model.stream(request) for _ in range(3)]
    model.close()
    for stream in streams:
        with pytest.raises(ClosedError):
            collect(stream)
    with pytest.raises(ClosedError):
        model.stream(request)
