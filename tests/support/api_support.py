"""A scripted model, and a real HTTP server around it, for tests of the API."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from glm_frontend_api.config import ApiConfig
from glm_frontend_api.server import build_server
from glm_frontend_api.service import Service
from glm_http.server import Server, bind, format_url, serve_on_thread
from glm_testing import make_host

from glm_core import (
    AdapterError,
    BusyError,
    ChatModel,
    ChatRequest,
    ClosedError,
    Delta,
    ModelInfo,
    ModelLoad,
    OutOfMemoryError,
    OutsideFolderError,
    RequestError,
    Sampling,
    Usage,
    hookimpl,
)

PATIENCE = 60.0
"""Seconds after which something that should have happened counts as never happening."""

REFUSALS: dict[str, Exception] = {
    "busy": BusyError("the queue is full: 4 requests wait; try again later"),
    "adapter": AdapterError("adapter 'poet' is damaged"),
    "long": RequestError("the question has 9 tokens; at most 8 fit"),
    "memory": OutOfMemoryError("the cache needs 2 GB, 1 GB is free"),
    "closed": ClosedError("the model was closed"),
    "broken": ValueError("secret words of a prompt"),
}

# What an answer's usage says where the model reused nothing.
NOTHING_CACHED = {"prompt_tokens_details": {"cached_tokens": 0}}


@dataclass(eq=False)  # pluggy keeps plugins in sets
class ScriptedRuntime:
    """Does what the last question says.

    ``say WORDS`` answers the words. ``pause WORDS`` does so once `gate` is set, ``forever`` until
    it is closed (``forever big`` with much text), ``hang`` never, ``hang hard`` not even when closed
    before `gate` is set.
    ``queue WORDS`` is as ``pause``, after an empty delta that tells a place in the queue.
    ``fail`` raises after one word, ``fail NAME`` raises one of `REFUSALS` after one word, ``stop
    short`` ends without a finish reason. ``refuse NAME`` raises at once. ``remove NAME`` removes that
    adapter before it is looked for.

    Adapters may be added and removed; a directory called ``damaged``, ``outside``, ``big`` or ``broken`` is
    refused as such, one called ``slow`` is read once `gate` is set.
    """

    adapters: tuple[str, ...] = ()
    usage: Usage = field(default_factory=lambda: Usage(prompt_tokens=3, completion_tokens=2))
    name: str = "scripted"
    load: ModelLoad | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    requests: list[ChatRequest] = field(default_factory=list)
    open_streams: set[Any] = field(default_factory=set)
    directories: dict[str, Path] = field(default_factory=dict)
    folders: dict[str, Path | None] = field(default_factory=dict)
    GLM_API_VERSION = 2

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        defaults = Sampling(max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0)
        return ModelInfo(self.name, "scripted", 0, 2048, defaults, self.adapters)

    def close(self) -> None:
        """Nothing to give back."""

    def add_adapter(self, name: str, directory: Path, inside: Path | None = None) -> None:
        """Do what the directory is called."""
        self.directories[name] = directory
        self.folders[name] = inside
        match directory.name:
            case "outside":
                raise OutsideFolderError(f"{directory}/model.safetensors leads out")
            case "damaged":
                raise AdapterError(f"{directory}/model.safetensors is damaged; copy it again")
            case "big":
                raise OutOfMemoryError("adapter 'x': cpu has no memory for its 5 positions")
            case "broken":
                raise ValueError("secret place")
            case "slow":
                self.gate.wait(PATIENCE)
        self.adapters = (*self.adapters, name)

    def remove_adapter(self, name: str) -> None:
        """Forget it."""
        self.adapters = tuple(adapter for adapter in self.adapters if adapter != name)

    @hookimpl
    def chat_stream(self, model: object, request: ChatRequest) -> Iterator[Delta]:
        """Note the request and start to answer."""
        self.requests.append(request)
        text = request.prompt if request.prompt is not None else request.messages[-1].content
        assert isinstance(text, str)  # the scripted model is asked in words, not in token ids
        command, _, rest = text.partition(" ")
        if command == "refuse":
            raise REFUSALS[rest]
        if command == "remove":
            self.remove_adapter(rest)
            raise AdapterError(f"adapter {rest!r} is not loaded")
        if command == "hang" and rest != "hard":
            return HangingStream(self)
        return self._answer(command, rest)

    def _answer(self, command: str, rest: str) -> Iterator[Delta]:
        token = object()
        self.open_streams.add(token)
        try:
            if command == "queue":
                yield Delta("", queue_position=2)
            if command in ("pause", "hang", "queue"):
                self.gate.wait(PATIENCE)
            yield from self._deltas(command, rest)
        finally:
            self.open_streams.discard(token)

    def _deltas(self, command: str, rest: str) -> Iterator[Delta]:
        number = 0
        while command == "forever":
            yield Delta(f"{number} " * (20_000 if rest == "big" else 1), (number,))
            number += 1
            time.sleep(0.001)
        for number, word in enumerate(rest.split(" ") if rest else ["word"]):
            yield Delta(f" {word}" if number else word, (number,))
            if command == "fail":
                raise REFUSALS.get(rest, REFUSALS["broken"])
        if (command, rest) != ("stop", "short"):
            yield Delta("", (), "stop", self.usage)

    @property
    def model(self) -> ChatModel:
        """This runtime as core hands it to a frontend."""
        return ChatModel(make_host(scripted=self), "scripted", self)


class HangingStream(Iterator[Delta]):
    """A stream without tokens that can be closed from another thread, as the engine's can."""

    def __init__(self, runtime: ScriptedRuntime) -> None:
        self._runtime = runtime
        self._closed = threading.Event()
        runtime.open_streams.add(self)

    def __next__(self) -> Delta:
        self._closed.wait(3 * PATIENCE)  # longer than any test waits for its being closed
        raise StopIteration

    def close(self) -> None:
        """Wake who waits for a token."""
        self._closed.set()
        self._runtime.open_streams.discard(self)


@dataclass
class Served:
    """A server that runs.

    Attributes:
        url: without a slash at the end.
        port: of it.
        service: what it serves.
        server: to stop or drain it.
        http: a client.
    """

    url: str
    port: int
    service: Service
    server: Server
    http: httpx.Client

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        """Ask one question."""
        return self.http.post("/v1/chat/completions", json=chat_body(text, **fields))

    def ask_original(self, prompt: str, **fields: Any) -> httpx.Response:
        """Ask one question of the original's route."""
        return self.http.post("/", json={"prompt": prompt, **fields})

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.http.get("/metrics").text.splitlines()
        values = [
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))
        ]
        assert values, f"no metric {name}"
        return sum(values)


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    """A chat request with one question."""
    return {"model": "default", "messages": [{"role": "user", "content": text}], **fields}


@contextlib.contextmanager
def serving(model: ChatModel, **config: Any) -> Iterator[Served]:
    """A real server on a free port of loopback, in a thread of its own."""
    settings = ApiConfig(**{"port": 0, "drain_seconds": 0.0, **config})
    with bind(settings.host, settings.port) as listener:
        url, port = format_url(listener), listener.getsockname()[1]
        service = Service(model, settings)
        server = build_server(service)
        headers = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        with serve_on_thread(server, listener):
            with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE * 2, trust_env=False) as client:
                yield Served(url, port, service, server, client)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that must come true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.005)


def events(response: httpx.Response) -> Iterator[str]:
    """The data of a stream's events; comments are left out."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")
