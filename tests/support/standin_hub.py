"""A stand-in for Hugging Face's hub on the loopback interface: what its client asks of an endpoint.

Large files are kept by content and answered with a redirect, as the hub does it, and say that Xet
has them too. Every request is noted; faults are set from outside.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from patience import PATIENCE_SECONDS

LARGE = (".safetensors", ".bin", ".model")


@dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Repository:
    """Commits of one model, and what its branches and tags stand for."""

    commits: dict[str, dict[str, bytes]]
    references: dict[str, str]


@dataclass
class StandinHub:
    """The models that are offered, the faults, and the requests so far.

    Attributes:
        url: where models are asked for.
        store: where large files are redirected to; another host, as far as clients can tell.
        cut_after: file name to the number of bytes after which its next connection is cut.
        hold_after: file name to the number of bytes after which its next connection goes silent.
        ignore_ranges: answer every request with the whole file.
        failures: start of a path to the status and headers it is answered with.
        page: answered to everything, as a network's log-in page is.
        sizes: sizes that the listing claims, where they are not true.
    """

    url: str = ""
    store: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    hold_after: dict[str, int] = field(default_factory=dict)
    end: threading.Event = field(default_factory=threading.Event)
    ignore_ranges: bool = False
    failures: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    page: bytes = b""
    sizes: dict[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def offer(self, name: str, files: dict[str, bytes], commit: str = "a" * 40, *references: str) -> None:
        """Add a commit to a model; it becomes ``main`` unless other references are named."""
        repository = self.repositories.setdefault(name, Repository({}, {}))
        repository.commits[commit] = files
        repository.references |= dict.fromkeys(references or ("main",), commit)

    def fetched(self, suffix: str = "") -> list[Request]:
        """The requests for the content of files whose path ends so."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path and request.path.endswith(suffix)
        ]

    def content(self, digest: str) -> tuple[str, bytes]:
        """Name and bytes of a large file, by its hash."""
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for name, data in files.items():
                    if sha256(data) == digest:
                        return name, data
        raise KeyError(digest)


def sha256(data: bytes) -> str:
    """The hash by which a large file is kept."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """The hash by which git, and so the hub, names a small file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def standin_hub() -> Iterator[StandinHub]:
    """Serve until the block ends."""
    hub = StandinHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url, hub.store = f"http://127.0.0.1:{server.server_port}", f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.end.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandinHub
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if self.hub.page:
            self._answer(200, self.hub.page, {"Content-Type": "text/html"})
            return
        for start, (status, headers) in self.hub.failures.items():
            if path.startswith(start):
                self._answer(status, b"{}", headers)
                return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "content":
            self._send_content(*self.hub.content(parts[1]))
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._answer(404, b"{}", {})

    do_HEAD = do_GET  # noqa: N815  the name that http.server asks for

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.references.get(revision, revision)
        if commit not in repository.commits:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repository.commits[commit]

    def _describe(self, name: str, rest: list[str]) -> None:
        found = self._find(name, "/".join(rest[1:]) or "main")
        if found is None:
            return
        commit, files = found
        sizes = {path: self.hub.sizes.get(path, len(data)) for path, data in files.items()}
        if rest[:1] == ["tree"]:
            listing: object = [
                {"type": "file", "path": path, "size": sizes[path], "oid": git_sha1(data)}
                | (_large(data, sizes[path], "oid") if path.endswith(LARGE) else {})
                for path, data in files.items()
            ]
        else:
            siblings = [
                {"rfilename": path, "size": sizes[path], "blobId": git_sha1(data)}
                | (_large(data, sizes[path], "sha256") if path.endswith(LARGE) else {})
                for path, data in files.items()
            ]
            listing = {"id": name, "sha": commit, "siblings": siblings}
        self._answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        commit, files = found
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            self._answer(404, b"{}", headers | {"X-Error-Code": "EntryNotFound"})
        elif path.endswith(LARGE):
            digest = sha256(files[path])
            linked = {
                "Location": f"{self.hub.store}/content/{digest}",
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(files[path])),
                "X-Xet-Hash": digest,
                "Link": f'<{self.hub.url}/api/models/{name}/xet-read-token/{commit}>; rel="xet-auth"',
            }
            self._answer(302, b"", headers | linked)
        else:
            self._answer(200, files[path], headers | {"ETag": f'"{git_sha1(files[path])}"'})

    def _send_content(self, name: str, data: bytes) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not self.hub.ignore_ranges else 0
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        cut, hold = self.hub.cut_after.pop(name, None), self.hub.hold_after.pop(name, None)
        self._answer(206 if start else 200, data[start:], headers, hold if cut is None else cut)
        if hold is not None:
            self.hub.end.wait(PATIENCE_SECONDS)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut_after])
        self.close_connection = cut_after is not None

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""


def _large(data: bytes, size: int, hash_key: str) -> dict[str, object]:
    return {"lfs": {hash_key: sha256(data), "size": size, "pointerSize": 130}, "xetHash": sha256(data)}
