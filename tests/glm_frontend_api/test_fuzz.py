"""Whatever is sent: never a 500, never a hang, and the next good request is answered."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from typing import Any

import pytest
from api_support import Served, chat_body
from patience import PATIENCE_SECONDS

POSTS = {
    "/v1/chat/completions": chat_body("hello", max_tokens=2),
    "/v1/completions": {"model": "default", "prompt": "hello", "max_tokens": 2},
    "/": {"prompt": "hello", "history": [["a", "b"]]},
}
GETS = ("/v1/models", "/v1/models/demo", "/v1/adapters", "/health", "/ready", "/metrics", "/openapi.json")
JSON_TYPE = {"content-type": "application/json"}
BODIES = {
    "nothing": b"",
    "spaces": b"   ",
    "not JSON": b"hello",
    "half an object": b'{"model": "default", "messages": [',
    "a list": b"[]",
    "a string": b'"hello"',
    "null": b"null",
    "a number": b"17",
    "NUL bytes": b"\x00" * 100,
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "UTF-16": '{"prompt": "hello"}'.encode("utf-16"),
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"messages":' * 100_000,
    "deep and closed": b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "huge integer": b'{"prompt": "x", "max_length": ' + b"9" * 5000 + b"}",
    "huge text": b'{"prompt": "' + b"x" * 3_000_000 + b'"}',
    "many keys": json.dumps({f"key{number}": number for number in range(50_000)}).encode(),
    "duplicate keys": b'{"prompt": "a", "prompt": "b", "model": "demo", "model": "demo"}',
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.0, 2**31, 2**63, 2**64, -(2**70), 10**400, 1e308, -1e308, 1e-300),
    *("", " ", "x", "\x00", "\ud800", "\udfff\ud800", "a\x00b", "\u202e", "\ufffe", "e\u0301", "😀", "你好"),
    *("[gMASK]", "<sop>", "<eop>", "[gMASK]<sop>", "</s>", "<pad>", "<|user|>", "<n>", "\r\n\r\n", "data: x"),
    *([], [[]], [None], ["x"] * 2000, [["x"]], [["a", "b"]] * 2000, {}, {"x": 1}, {"role": "user"}),
    *(
        [{"role": "user", "content": "\ud800"}],
        [{"role": "user", "content": [{"type": "text", "text": "\0"}]}],
    ),
    *([{"role": "system", "content": "x"}], [{"role": "user", "content": ["x"]}], {"type": "text"}),
)
TEXTS = (
    "[gMASK]",
    "<sop>",
    "<eop>",
    "[gMASK]<sop>" * 50,
    "</s>",
    "<n><|tab|>",
    "😀" * 100,
    "\u202e\u2066",
    " x ",
)


def still_serves(served: Served) -> None:
    """A good request is answered."""
    assert served.chat("hello", max_tokens=2).status_code == 200


def post(served: Served, path: str, body: Any) -> int:
    """Post something; its status, which must never be 500."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = served.http.post(path, content=content, headers=JSON_TYPE)
    assert answer.status_code < 500, (path, content[:300], answer.text)
    assert "server_error" not in answer.text  # in a stream it would come with status 200
    return answer.status_code


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_request_are_refused(demo: Served, path: str, name: str) -> None:
    """Malformed, huge and deeply nested bodies are a 400 or a 413."""
    assert post(demo, path, BODIES[name]) in (400, 413)
    still_serves(demo)


@pytest.mark.parametrize("path", POSTS)
def test_fields_of_every_kind_do_no_harm(demo: Served, path: str) -> None:
    """Each field in turn gets each odd value."""
    schema = demo.http.get("/openapi.json").json()
    reference = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    fields = schema["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]
    assert len(fields) >= 5
    tried = 0
    limits = {"max_length": 12} if path == "/" else {"max_tokens": 2}
    for field in fields:
        for value in VALUES:
            tried += post(demo, path, {**POSTS[path], **limits, field: value}) in (200, 400, 404, 413)
    assert tried == len(fields) * len(VALUES)
    still_serves(demo)


@pytest.mark.parametrize("field", ["name", "path"])
def test_names_and_paths_of_adapters_of_every_kind_do_no_harm(keyed: Served, field: str) -> None:
    """An adapter's name and path may be anything: they are refused, and nothing is loaded."""
    good = {"name": "new", "path": "none"}
    for value in (*VALUES, *TEXTS, "..", "../..", "/etc", "a" * 5000, "\\\\host\\share", "C:\\x", "%2e%2e/x"):
        assert post(keyed, "/v1/adapters", {**good, field: value}) in (400, 403)
    for name, body in BODIES.items():
        assert post(keyed, "/v1/adapters", body) in (400, 413), name
    assert keyed.http.get("/v1/adapters").json()["data"] == []
    still_serves(keyed)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_control_tokens_and_odd_characters_are_only_text(demo: Served, text: str) -> None:
    """Names of control tokens in a prompt, a history or a stop string are answered like any text."""
    pairs = [[text, text]]
    assert demo.ask_original(text + " hello", history=pairs, max_length=2000).is_success
    assert demo.chat(text + "hello", stop=[text], max_tokens=4).is_success
    body = {"model": "demo", "prompt": text, "max_tokens": 4}
    assert demo.http.post("/v1/completions", json=body).is_success


def test_random_bytes_and_broken_requests_do_no_harm(demo: Served) -> None:
    """Good requests with bytes changed, cut or doubled are answered or refused."""
    chance = random.Random(20261122)
    for _ in range(150):
        path = chance.choice(list(POSTS))
        body = bytearray(json.dumps(POSTS[path]).encode())
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(body))
            match chance.randrange(3):
                case 0:
                    body[place] = chance.randrange(256)
                case 1:
                    del body[place : place + chance.randint(1, 8)]
                case _:
                    body[place:place] = body[place : place + 8]
            if not body:
                break
        post(demo, path, bytes(body))
    still_serves(demo)


HEADS = (
    b"\x00\x01\x02\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /%00%ff%c0%af/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/models/%00%ff%f0%9f%98%80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"GET /v1/models HTTP/1.0\r\n\r\n",
)


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
def test_broken_http_is_refused(demo: Served, head: bytes) -> None:
    """Requests that are not even HTTP, or have odd headers and paths, get a 4xx or are closed."""
    with socket.create_connection(("127.0.0.1", demo.port), timeout=PATIENCE_SECONDS) as client:
        answer = b""
        with contextlib.suppress(OSError):  # it may be closed before all is sent
            client.sendall(head)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(65536)
    assert answer == b"" or answer.split()[1][:1] == b"4", answer
    still_serves(demo)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_every_method_on_every_route_is_answered(demo: Served, method: str) -> None:
    """What a route does not take is a 405 that says what it takes."""
    for path in (*POSTS, *GETS, "/nothing", "//", "/v1", "/v1/", "/v1/chat/completions/", "/v1/adapters/x"):
        answer = demo.http.request(method, path)
        assert answer.status_code < 500
        if path in (*POSTS, *GETS) and answer.status_code != 200:
            assert answer.status_code == 405
            assert answer.headers["allow"]
    still_serves(demo)
