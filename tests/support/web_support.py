"""A page to test: a scripted model, and a process of its own that serves the page on it.

The page runs in another process because gradio leaves event loops unclosed, which this project's
tests would take for a fault of their own.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from glm_frontend_web import _windows
from glm_frontend_web._app import build_app
from glm_frontend_web._options import WebOptions
from glm_frontend_web._serving import serve_page
from glm_frontend_web._session import WindowState
from glm_http.server import bind
from glm_testing import make_host
from gradio.state_holder import SessionState
from gradio.utils import get_upload_folder
from patience import PATIENCE_SECONDS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import glm_core
from glm_core import ChatModel, ChatRequest, Delta, GlmError, ModelInfo, Sampling, Usage, hookimpl

BROWSER_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Script:
    """How the scripted model answers one question.

    Attributes:
        pieces: the answer; each piece is one token.
        gated: whether every piece waits for `ScriptedRuntime.release`.
        waiting: queue positions that are reported first, each waiting for a release as well.
        refusal: raised at once, before the stream exists.
        error: raised after the last piece.
        finish_reason: of the last delta.
        dropped_messages: as the last delta's usage says.
    """

    pieces: tuple[str, ...] = ("fine",)
    gated: bool = False
    waiting: tuple[int, ...] = ()
    refusal: GlmError | None = None
    error: Exception | None = None
    finish_reason: Any = "stop"
    dropped_messages: int = 0


@dataclass(eq=False)  # pluggy keeps plugins in sets
class ScriptedRuntime:
    """Answers known questions by their `Script`, all others with the question itself."""

    name: str = "scripted"
    adapters: tuple[str, ...] = ()
    scripts: dict[str, Script] = field(default_factory=dict)
    requests: list[ChatRequest] = field(default_factory=list)
    steps: dict[str, threading.Semaphore] = field(default_factory=dict)
    closed: dict[str, threading.Event] = field(default_factory=dict)
    GLM_API_VERSION = 2

    @property
    def info(self) -> ModelInfo:
        """The original's defaults."""
        defaults = Sampling(
            max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True
        )
        return ModelInfo(
            self.name,
            "chatglm",
            6_200_000_000,
            2048,
            defaults,
            self.adapters,
            weight_bytes=12_400_000_000,
            devices=("cpu",),
            dtype="bfloat16",
        )

    @property
    def model(self) -> ChatModel:
        """This runtime as core hands it to a frontend."""
        return ChatModel(make_host(scripted=self), "scripted", self)

    def close(self) -> None:
        """Nothing to give back."""

    def add_adapter(self, name: str, directory: Path, inside: Path | None = None) -> None:
        """List it."""
        self.adapters = (*self.adapters, name)

    def remove_adapter(self, name: str) -> None:
        """Forget it."""
        self.adapters = tuple(adapter for adapter in self.adapters if adapter != name)

    def script(self, question: str, script: Script) -> str:
        """Say how ``question`` will be answered; the question."""
        self.scripts[question] = script
        self.steps[question] = threading.Semaphore(0)
        self.closed[question] = threading.Event()
        return question

    def release(self, question: str, pieces: int = 1) -> None:
        """Let a gated answer go on."""
        self.steps[question].release(pieces)

    @hookimpl
    def chat_stream(self, model: object, request: ChatRequest) -> Iterator[Delta]:
        """Note the request and start to answer."""
        self.requests.append(request)
        question = request.messages[-1].content
        script = self.scripts.get(question) or Script((question,))
        if script.refusal is not None:
            raise script.refusal
        return self._answer(question, script)

    def _answer(self, question: str, script: Script) -> Iterator[Delta]:
        try:
            for position in script.waiting:
                yield Delta("", queue_position=position)
                yield from self._hold(question, position)
            for number, piece in enumerate(script.pieces):
                if script.gated:
                    yield from self._hold(question, 0)
                yield Delta(piece, (number,))
            if script.error is not None:
                raise script.error
            usage = Usage(
                prompt_tokens=7,
                completion_tokens=len(script.pieces),
                dropped_messages=script.dropped_messages,
                time_to_first_token=0.25,
                decode_seconds=max(len(script.pieces) - 1, 0) / 20,
            )
            yield Delta("", (), script.finish_reason, usage)
        finally:
            if question in self.closed:
                self.closed[question].set()

    def _hold(self, question: str, position: int) -> Iterator[Delta]:
        """Wait for a release, giving a sign of life now and then, as a runtime with a queue may."""
        while not self.steps[question].acquire(timeout=0.02):
            yield Delta("", queue_position=position)


def echo_api(model: ChatModel, *, api_key: str | None, allowed_hosts: Any) -> Starlette:
    """A stand-in for the HTTP API: says which model it is on and what it was asked."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{model.info.name} {request.method} {request.url.path} {api_key}")

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


class SiteHost:
    """Serves one page; lives in the page's process and is called from the test's."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._runtime = ScriptedRuntime()
        self._names: list[str] = []
        self._watch_names()

    def set_grace(self, seconds: float) -> None:
        """Say for how long a window that was closed is kept."""
        _windows.GRACE_SECONDS = seconds

    def count_windows(self) -> dict[str, int]:
        """Count what the process holds of windows, by its kind."""
        gc.collect()
        things = gc.get_objects()
        return {
            "states": sum(isinstance(thing, WindowState) for thing in things),
            "sessions": sum(isinstance(thing, SessionState) for thing in things),
        }

    def list_uploads(self) -> list[str]:
        """List every file that gradio keeps for visitors."""
        return sorted(str(path) for path in Path(get_upload_folder()).rglob("*") if path.is_file())

    def list_writable_routes(self) -> list[tuple[str, str]]:
        """List every method and path with which gradio takes a body."""
        return [
            (method, route.path.replace(":path", "").replace("{", "").replace("}", ""))
            for route in _flatten(self._gradio_app.routes)
            for method in sorted((getattr(route, "methods", None) or {"POST"}) - {"GET", "HEAD", "OPTIONS"})
        ]

    def offer_body(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        *,
        logged_in: bool = False,
        chunks: int = 10_000,
    ) -> tuple[int, int]:
        """Send a request with a body of brackets, 64 KB at a time, to a page that is not served, only called.

        Args:
            method: of the request.
            path: likewise.
            headers: likewise; the host is localhost unless they say otherwise.
            logged_in: whether a visitor's cookie is among them.
            chunks: how many there are, if the page takes them all.

        Returns:
            The status, and how many bytes were taken.
        """
        if logged_in:
            self._gradio_app.tokens["token"] = "ann"
            cookie = f"access-token-unsecure-{self._gradio_app.cookie_id}=token"
            headers = headers | {"cookie": cookie}
        chunk, taken, status = b"[" * 65536, 0, 0

        async def receive() -> dict[str, Any]:
            nonlocal taken
            if taken >= chunks * len(chunk):
                return {"type": "http.request", "body": b"", "more_body": False}
            taken += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": True}

        async def send(message: Any) -> None:
            nonlocal status
            status = status or message.get("status", 0)

        pairs = {"host": "localhost", **headers}.items()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in pairs],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 7860),
        }
        asyncio.run(self._app(scope, receive, send))
        return status, taken

    @cached_property
    def _app(self) -> Any:
        """A page with a password that is not served, only called."""
        return build_app(self._runtime.model, WebOptions(auth=("ann", "secret")))[0]

    @property
    def _gradio_app(self) -> Any:
        app = self._app
        while not getattr(app, "routes", None):  # through all that stands in front of it
            app = app._app
        return app.routes[-1].app

    def open_scripted(self, options: dict[str, Any], **runtime: Any) -> str:
        """Serve the page on a scripted model; its address."""
        self._runtime = ScriptedRuntime(**runtime)
        return self._serve(self._runtime.model, options)

    def open_demo(self, options: dict[str, Any]) -> str:
        """Serve the page on the bundled demo model; its address."""
        return self._serve(self._stack.enter_context(glm_core.load("demo")), options)

    def script(self, question: str, script: Script) -> str:
        """See `ScriptedRuntime.script`."""
        return self._runtime.script(question, script)

    def release(self, question: str, pieces: int = 1) -> None:
        """See `ScriptedRuntime.release`."""
        self._runtime.release(question, pieces)

    def set_adapters(self, *names: str) -> None:
        """From now on the model has these adapters."""
        self._runtime.adapters = names

    def was_closed(self, question: str) -> bool:
        """Whether the stream of a scripted answer ended or was closed, waiting for that a while."""
        return self._runtime.closed[question].wait(PATIENCE_SECONDS)

    def last_request(self) -> ChatRequest:
        """What the model was asked last."""
        return self._runtime.requests[-1]

    def names_looked_up(self) -> list[str]:
        """Host names that this process wanted to know the address of, its own aside."""
        return self._names

    def close(self) -> None:
        """Serve no longer."""
        self._stack.close()

    def _watch_names(self) -> None:
        look_up = socket.getaddrinfo

        def watched(host: Any, *rest: Any, **more: Any) -> Any:
            if str(host) not in ("127.0.0.1", "localhost", "::1"):
                self._names.append(str(host))
            return look_up(host, *rest, **more)

        socket.getaddrinfo = watched

    def _serve(self, model: ChatModel, options: dict[str, Any]) -> str:
        checked = WebOptions.parse({"port": 0, **options}, environ={})
        listener = self._stack.enter_context(bind(checked.host, checked.port))
        factory = echo_api if checked.with_api else None
        return self._stack.enter_context(serve_page(model, checked, listener, factory))


def _flatten(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield every route with a path, also those of routers that FastAPI keeps as they are."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _flatten(inner.routes)
        elif hasattr(route, "methods"):
            yield route


class _Process(BaseManager):
    """Runs a `SiteHost`."""


_Process.register("SiteHost", SiteHost)


@dataclass(frozen=True)
class Site:
    """A page that is being served.

    Attributes:
        url: where, with a slash at the end.
        script: the `SiteHost` in its process.
    """

    url: str
    script: Any


@contextmanager
def site(
    *,
    demo: bool = False,
    options: dict[str, Any] | None = None,
    grace_seconds: float | None = None,
    **runtime: Any,
) -> Iterator[Site]:
    """Serve the page on a free loopback port, on a scripted model or the demo one.

    Args:
        demo: whether the demo model answers.
        options: of the page.
        grace_seconds: for how long a closed window is kept; as users have it by default.
        runtime: of the scripted model.
    """
    with _Process(ctx=multiprocessing.get_context("spawn")) as process:
        host = process.SiteHost()  # type: ignore[attr-defined]
        if grace_seconds is not None:
            host.set_grace(grace_seconds)
        url = host.open_demo(options or {}) if demo else host.open_scripted(options or {}, **runtime)
        yield Site(url, host)
        host.close()


def chromium() -> str | None:
    """The browser's path, or ``None`` where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
