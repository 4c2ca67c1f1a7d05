"""Small ASGI applications on a real server, and raw requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from glm_http.gate import Gate
from glm_http.refusals import RefusalError
from glm_http.server import Server, bind, serve_on_thread
from patience import PATIENCE_SECONDS
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

SUPPORT = Path(__file__).parent
"""Where a process of its own finds this module."""


@dataclass
class EchoApp:
    """Answers with what the body was; ``/wait`` does so once `gate` is set, ``/blind`` reads no body.

    Attributes:
        received: bytes of bodies that reached the application.
        cancelled: requests whose client left while they waited.
    """

    received: int = 0
    cancelled: int = 0
    started: int = 0
    paths: list[str] = field(default_factory=list)
    released: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        self.started += 1
        self.paths.append(scope["path"])
        body = b""
        while scope["path"] != "/blind":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.cancelled += 1
                return
            body += message["body"]
            self.received += len(message["body"])
            if not message.get("more_body"):
                break
        if scope["path"] == "/wait" and not await self._wait(receive):
            self.cancelled += 1
            return
        await PlainTextResponse(body[:1000])(scope, receive, send)

    async def _wait(self, receive: Receive) -> bool:
        """Return whether the client was there to the end."""
        gone = asyncio.ensure_future(receive())
        while not self.released:
            done, _ = await asyncio.wait([gone], timeout=0.005)
            if done:
                return False
        gone.cancel()
        return True


def refuse(scope: Scope, refusal: RefusalError) -> Response:
    """Answer as the tests can read it."""
    return PlainTextResponse(refusal.code, refusal.status, refusal.headers)


def guard(app: ASGIApp, limit: int = 1000, **options: object) -> Gate:
    """A gate with a limit of bytes."""
    return Gate(app, max_body_bytes=lambda scope: limit, build_refusal=refuse, **options)  # type: ignore[arg-type]


@dataclass
class Running:
    """A server and its port."""

    server: Server
    port: int

    def connect(self) -> socket.socket:
        """A connection of our own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def send(self, data: bytes, *, half_close: bool = False) -> bytes:
        """All that the server answers to some bytes, until it closes the connection."""
        with self.connect() as client:
            with contextlib.suppress(ConnectionError):  # the server may have heard enough before the end
                client.sendall(data)
                if half_close:
                    client.shutdown(socket.SHUT_WR)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """What comes until the other side closes, or breaks off."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            data += piece
    return data


def build_request(
    path: str = "/", body: bytes = b"", *, method: str = "POST", close: bool = True, **headers: str
) -> bytes:
    """A request with a Content-Length; names of headers have ``_`` for ``-``."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunk(body: bytes, size: int) -> bytes:
    """A body in chunks of a size."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def read_json(answer: bytes) -> object:
    """The JSON of a raw response that is not in chunks."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@contextlib.contextmanager
def serving_app(app: ASGIApp, **options: object) -> Iterator[Running]:
    """A real server on a free port of loopback, on a thread."""
    server = Server(app, **options)  # type: ignore[arg-type]
    with bind("127.0.0.1", 0) as listener, serve_on_thread(server, listener):
        yield Running(server, listener.getsockname()[1])
