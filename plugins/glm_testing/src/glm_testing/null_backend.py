"""The smallest complete plugin that can chat: a runtime and a backend that need no hardware.

Its one model, ``null``, answers with the words of the question. Everything that core, frontends
and the conformance kit rely on is here: describing, declining, one final delta, cancelling from
any thread, stop strings, adapters that come and go (one says a word before each answer).
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from glm_core import hookimpl
from glm_core.errors import AdapterError, ClosedError, OutsideFolderError, RequestError
from glm_core.records import (
    BackendInfo,
    ChatRequest,
    Delta,
    DeviceInfo,
    ModelCard,
    ModelInfo,
    ModelMatch,
    ModelSource,
    Placement,
    RuntimeInfo,
    Sampling,
    Usage,
)

GLM_API_VERSION = 2

CONTEXT_LENGTH = 2048  # words, which are its tokens; ChatGLM-6B has as many
DEFAULTS = Sampling(
    max_length=CONTEXT_LENGTH,
    temperature=0.95,
    top_p=0.7,
    top_k=50,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    do_sample=True,
    ignore_eos=False,
)


class NullModel:
    """A model without weights.

    Attributes:
        active: answers that were begun and neither ended nor closed.
        closed: whether it was closed.
        lock: guards what requests share.

    Args:
        name: what the user called it.
        adapters: names that requests may choose from, or these with their directories.
    """

    def __init__(self, name: str, adapters: Mapping[str, Path] | tuple[str, ...] = ()) -> None:
        self.active = 0
        self.closed = False
        self.lock = threading.RLock()  # a stream may be dropped, and so closed, while it is held
        self.words = dict.fromkeys(adapters, "")
        self.info = ModelInfo(name, "null", 0, CONTEXT_LENGTH, DEFAULTS, tuple(sorted(adapters)))
        if isinstance(adapters, Mapping):
            for adapter, directory in adapters.items():
                self.add_adapter(adapter, directory)

    def add_adapter(self, name: str, directory: Path, inside: Path | None = None) -> None:
        """Read the adapter's word from ``adapter.txt``; without the file it says nothing."""
        file = Path(os.path.realpath(directory / "adapter.txt"))
        if inside is not None and not file.is_relative_to(os.path.realpath(inside)):
            raise OutsideFolderError(f"adapter {name!r}: {file} is outside {inside}; copy it there")
        try:
            word = file.read_text("utf-8").strip() if file.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterError(f"adapter {name!r}: {file} cannot be read: {error}") from error
        self._set_words({**self.words, name: word})

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self._set_words({other: word for other, word in self.words.items() if other != name})

    def _set_words(self, words: dict[str, str]) -> None:
        self.words = words
        self.info = dataclasses.replace(self.info, adapters=tuple(sorted(words)))

    def close(self) -> None:
        """Mark the model closed; what answers goes no further."""
        self.closed = True


class NullStream(Iterator[Delta]):
    """One answer; `close` may come from any thread, as often as anybody likes.

    Args:
        model: whose answer it is.
        deltas: all of it; a real runtime would make them one by one.
    """

    def __init__(self, model: NullModel, deltas: list[Delta]) -> None:
        self._model = model
        self._deltas = deque(deltas)
        self._running = False

    def __next__(self) -> Delta:
        with self._model.lock:
            if self._model.closed:
                self._leave()
                raise ClosedError("the null model was closed")
            if not self._deltas:
                raise StopIteration
            if not self._running:
                self._running = True
                self._model.active += 1
            delta = self._deltas.popleft()
            if not self._deltas:
                self._leave()
            return delta

    def close(self) -> None:
        """Cancel; at the answer's end, or a second time, this does nothing."""
        with self._model.lock:
            self._deltas.clear()
            self._leave()

    def _leave(self) -> None:
        if self._running:
            self._running = False
            self._model.active -= 1

    def __del__(self) -> None:
        self.close()


@hookimpl
def describe_backend() -> BackendInfo:
    """Describe one device that is always there, of lower priority than every real one."""
    return BackendInfo(
        "null", (DeviceInfo("null", "null", "no hardware at all"),), priority=-1, kinds=("null",)
    )


@hookimpl
def describe_runtime() -> RuntimeInfo:
    """Say what ``--runtime`` calls this runtime."""
    return RuntimeInfo("null", "answers with the words of the question; for tests")


@hookimpl
def describe_models() -> tuple[ModelCard, ...]:
    """Name the one model, known by its name alone."""
    return (ModelCard("null", "answers with the words of the question"),)


@hookimpl
def identify_model(source: ModelSource) -> ModelMatch | None:
    """Know the name ``null`` and nothing else."""
    return ModelMatch("null", "it is called null") if source.name == "null" else None


@hookimpl
def load_model(source: ModelSource) -> NullModel | None:
    """Accept the name ``null`` and decline everything else."""
    return NullModel(source.name, source.adapters) if source.name == "null" else None


@hookimpl
def place(model: object, placement: Placement) -> NullModel | None:
    """Note where the model is; there is nothing to put anywhere."""
    if not isinstance(model, NullModel):
        return None
    model.info = dataclasses.replace(model.info, devices=placement.devices, dtype="float32")
    return model


@hookimpl
def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta] | None:
    """Check the request now, answer as the iterator is read."""
    if not isinstance(model, NullModel):
        return None
    if model.closed:
        raise ClosedError("the null model was closed")
    return NullStream(model, make_deltas(model, request))


def make_deltas(model: NullModel, request: ChatRequest) -> list[Delta]:
    """Return the whole answer, a token a word.

    Raises:
        AdapterError: the request names an adapter that is not loaded.
        RequestError: it has more words than the model has room for.
    """
    if request.adapter is not None and request.adapter not in model.words:
        raise AdapterError(f"adapter {request.adapter!r} is not loaded")
    started = time.perf_counter()
    question = list_words(request)
    if len(question) >= CONTEXT_LENGTH:
        raise RequestError(f"the question has {len(question)} words; at most {CONTEXT_LENGTH - 1} fit")
    word = model.words[request.adapter] if request.adapter else ""
    answer = [word, *question] if word else question
    limit = request.sampling.max_new_tokens or len(answer)
    tokens = [f" {word}" if number else word for number, word in enumerate(answer[:limit])]
    text = "".join(tokens)
    found = [text.find(stop) for stop in request.stop if stop in text]
    end = min(found, default=len(text))
    deltas: list[Delta] = []
    for number, token in enumerate(tokens):
        if end <= 0 and found:
            break
        deltas.append(Delta(token[:end] if found else token, (number,)))
        end -= len(token)
    reason = "stop" if found or limit >= len(answer) else "length"
    usage = Usage(len(question), len(deltas), decode_seconds=time.perf_counter() - started)
    return [*deltas, Delta("", (), "stop" if reason == "stop" else "length", usage)]


def list_words(request: ChatRequest) -> list[str]:
    """Return the words of the question; of token ids, their numbers."""
    if isinstance(request.prompt, tuple):
        return [str(token) for token in request.prompt]
    return (request.messages[-1].content if request.prompt is None else request.prompt).split()
