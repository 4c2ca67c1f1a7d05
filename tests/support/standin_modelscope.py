"""A stand-in for ModelScope on the loopback interface: what its client asks of an endpoint."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class StandinModelScope:
    """The models that are offered, the faults, and the requests so far.

    Attributes:
        models: model to revision to its files.
        cut_after: file name to the number of bytes after which its connection is cut, once.
        status: answered to everything, if set.
        page: answered to everything, as a network's log-in page is.
        fetched: file, revision and range of every request for a file's content.
        asked: how many requests came, of any kind.
    """

    url: str = ""
    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    status: int = 0
    page: bytes = b""
    fetched: list[tuple[str, str, str | None]] = field(default_factory=list)
    asked: int = 0


@contextmanager
def standin_modelscope() -> Iterator[StandinModelScope]:
    """Serve until the block ends."""
    hub = StandinModelScope()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandinModelScope
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        self.hub.asked += 1
        address = urlsplit(self.path)
        parts = address.path.strip("/").split("/")
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if self.hub.page:
            self._answer(200, self.hub.page)
        elif self.hub.status:
            self._answer(self.hub.status, _message(self.hub.status, "as the test asked"))
        elif parts[2] != "models":  # whether we are inside its own cloud
            self._answer(200, b'{"Code": 200, "Data": {}}')
        elif (files := self._files("/".join(parts[3:5]), query.get("Revision", "master"))) is None:
            self._answer(404, _message(404, "no such model or revision"))
        elif parts[5:] == ["repo", "files"]:
            self._answer(200, json.dumps({"Code": 200, "Data": {"Files": _listing(files)}}).encode())
        else:
            self._send_content(query["FilePath"], query["Revision"], files)

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        return self.hub.models.get(name, {}).get(revision)

    def _send_content(self, path: str, revision: str, files: dict[str, bytes]) -> None:
        asked, data = self.headers.get("Range"), files[path]
        self.hub.fetched.append((path, revision, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if asked else {}
        self._answer(206 if asked else 200, data[start:], headers, self.hub.cut_after.pop(path, None))

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut_after])
        self.close_connection = cut_after is not None

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""


def _listing(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"Path": path, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
    ]


def _message(status: int, text: str) -> bytes:
    return json.dumps({"Code": status, "Message": text, "Success": False}).encode()
