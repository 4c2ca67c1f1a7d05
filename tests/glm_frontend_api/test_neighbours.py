"""What others see when a client leaves or does not read, and when a model refuses, fails or hangs."""

from __future__ import annotations

import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from api_support import PATIENCE, ScriptedRuntime, Served, chat_body, events, serving, until

from glm_core.listening import StreamListener


def post_raw(served: Served, path: str, body: Any) -> socket.socket:
    """Send a request over a socket of our own, and read nothing."""
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def assert_serves(served: Served) -> None:
    """The next request is answered, and nothing is left of those before it."""
    answer = served.chat("say hello")
    while answer.status_code == 504:  # where a test set a short time limit, and the machine is busy
        answer = served.chat("say hello")
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    until(lambda: served.service.answers.taken == 0)
    until(lambda: served.service.posts.taken == 0)
    assert not served.service.generations


@pytest.mark.parametrize("command", ["forever", "hang"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/chat/completions", {"stream": True, "n": 3}),
        ("/v1/chat/completions", {}),
        ("/v1/completions", {"stream": True}),
        ("/", {}),
    ],
)
def test_client_that_leaves_frees_its_slot(
    served: Served, runtime: ScriptedRuntime, command: str, path: str, fields: dict[str, Any]
) -> None:
    """Streaming or not, before the first token or after it, a closed connection ends the answer."""
    if path == "/v1/chat/completions":
        body = chat_body(command, **fields)
    else:
        body = {"prompt": command, **({"model": "default", **fields} if path != "/" else {})}
    with post_raw(served, path, body):
        until(lambda: len(runtime.open_streams) == fields.get("n", 1))
    until(lambda: not runtime.open_streams)
    until(lambda: served.metric("glm_disconnects_total") == 1)
    assert_serves(served)


def test_client_that_leaves_a_waiting_stream_frees_its_slot(runtime: ScriptedRuntime) -> None:
    """Also where the headers were sent and no token, which would tell, is near."""
    with serving(runtime.model, header_seconds=0.01, comment_seconds=10_000.0) as served:
        with post_raw(served, "/v1/chat/completions", chat_body("hang", stream=True)) as client:
            assert client.recv(9) == b"HTTP/1.1 "
        until(lambda: not runtime.open_streams)
        assert_serves(served)


def test_stream_that_cannot_be_closed_ends_when_it_returns(served: Served, runtime: ScriptedRuntime) -> None:
    """A plain generator that waits cannot be closed from outside; its place stays taken until it can."""
    with post_raw(served, "/v1/chat/completions", chat_body("hang hard", stream=True)):
        until(lambda: runtime.open_streams)
    until(lambda: served.metric("glm_disconnects_total") == 1)
    assert served.service.answers.taken == 1
    assert served.chat("say hello").is_success
    runtime.gate.set()
    until(lambda: not runtime.open_streams)
    assert_serves(served)


def test_client_that_leaves_in_the_middle_of_its_body_does_no_harm(served: Served) -> None:
    """Half a request is forgotten."""
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        until(lambda: served.service.posts.taken == 1)
    assert_serves(served)


def test_others_are_answered_while_many_clients_are_killed(served: Served, runtime: ScriptedRuntime) -> None:
    """Ten clients that vanish change nothing in the answers of those who stay."""
    body = chat_body("forever", stream=True)
    clients = [post_raw(served, "/v1/chat/completions", body) for _ in range(10)]
    until(lambda: len(runtime.open_streams) == 10)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(served.chat, f"say answer {number}") for number in range(20)]
        for client in clients:
            client.close()
        texts = [answer.result().json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [f"answer {number}" for number in range(20)]
    until(lambda: not runtime.open_streams)
    assert_serves(served)


def test_client_that_never_reads_is_given_up(runtime: ScriptedRuntime) -> None:
    """After the stall limit the answer is closed, and counted as a client that left."""
    with serving(runtime.model, stall_seconds=0.2) as served:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before connecting, or it is too late
        client.connect(("127.0.0.1", served.port))
        data = json.dumps(chat_body("forever big", stream=True)).encode()
        with client:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            until(lambda: runtime.open_streams)
            until(lambda: not runtime.open_streams)
            assert served.metric("glm_disconnects_total") == 1
            assert_serves(served)


def test_health_answers_while_every_place_is_taken(runtime: ScriptedRuntime) -> None:
    """With all places in use others get a 429 that says so, and /health still answers."""
    with serving(runtime.model, max_requests=40) as served, ThreadPoolExecutor(40) as pool:
        waiting = [
            pool.submit(
                httpx.post,
                f"{served.url}/v1/chat/completions",
                json=chat_body("pause word"),
                timeout=PATIENCE,
            )
            for _ in range(40)
        ]
        until(lambda: served.service.answers.taken == 40)
        assert httpx.get(f"{served.url}/health", timeout=PATIENCE).status_code == 200
        refused = served.chat("say hello")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "too_many_requests"
        original = served.ask_original("say hello")
        assert (original.status_code, set(original.json())) == (429, {"error", "status", "time"})
        runtime.gate.set()
        assert {answer.result().status_code for answer in waiting} == {200}
        assert_serves(served)


def test_answers_of_one_request_count_each(runtime: ScriptedRuntime) -> None:
    """n=3 needs three places; where two are free, nothing of it runs."""
    with serving(runtime.model, max_requests=2) as served:
        assert served.chat("say hello", n=3).status_code == 429
        assert runtime.requests == []
        assert_serves(served)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("busy", 429, "queue_full"),
        ("adapter", 500, "adapter_failed"),
        ("long", 400, None),
        ("memory", 503, "out_of_memory"),
        ("closed", 503, "model_closed"),
        ("broken", 500, "model_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_refusals_of_the_model_have_their_status(
    served: Served, name: str, status: int, code: str | None, stream: bool, n: int
) -> None:
    """What a model refuses at once is told by a status, also where a stream was asked for."""
    answer = served.chat(f"refuse {name}", stream=stream, n=n)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert ("retry-after" in answer.headers) == (name in ("busy", "closed"))
    assert (answer.headers.get("x-should-retry") == "false") == (
        code in ("adapter_failed", "model_failed", "out_of_memory")
    )
    assert_serves(served)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/"])
def test_failure_of_one_answer_leaves_others_alone(
    served: Served, runtime: ScriptedRuntime, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While one answer fails half-way, the one beside it goes on to its end; no prompt is logged."""
    thread = ThreadPoolExecutor(1)
    beside = thread.submit(served.chat, "pause one two")
    until(lambda: len(runtime.open_streams) == 1)
    with caplog.at_level(logging.INFO):
        body = chat_body("fail") if path != "/" else {"prompt": "fail"}
        failed = served.http.post(path, json=body)
    assert failed.status_code == 500
    assert "the model failed; the server's log says where" in failed.text
    assert f"request {failed.headers['x-request-id']} failed: PluginFailureError" in caplog.text
    assert "caused by ValueError at" in caplog.text
    assert "secret words" not in caplog.text + failed.text
    runtime.gate.set()
    assert beside.result().json()["choices"][0]["message"]["content"] == "one two"
    thread.shutdown()
    assert_serves(served)


@pytest.mark.parametrize(
    ("command", "code"),
    [("fail", "model_failed"), ("fail adapter", "adapter_failed"), ("stop short", "model_failed")],
)
def test_failure_in_a_stream_is_an_event_and_the_end(served: Served, command: str, code: str) -> None:
    """The text so far arrives, then an error event; the stream is closed properly, without [DONE]."""
    body = chat_body(command, stream=True)
    with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        *before, last = [json.loads(event) for event in events(response)]
    assert response.status_code == 200
    assert before[1]["choices"][0]["delta"]["content"] == command.partition(" ")[2] or "word"
    assert last["error"]["code"] == code
    assert_serves(served)


def test_failure_of_one_of_several_answers_cancels_the_rest(served: Served, runtime: ScriptedRuntime) -> None:
    """With n=2 a failing answer ends the request, and the other answer's slot is free."""
    assert served.chat("fail", n=2).status_code == 500
    until(lambda: not runtime.open_streams)
    assert_serves(served)


def test_time_limit_ends_an_answer(runtime: ScriptedRuntime) -> None:
    """A whole answer that takes too long is a 504 that clients do not repeat; its slot is freed."""
    with serving(runtime.model, time_limit=0.2) as served:
        for answer in (served.chat("forever"), served.chat("hang"), served.ask_original("hang")):
            assert answer.status_code == 504
            assert "not finished after 0.2 seconds" in answer.text
            assert answer.headers["x-should-retry"] == "false"
        until(lambda: not runtime.open_streams)
        assert_serves(served)


@pytest.mark.parametrize("command", ["forever", "hang"])
def test_time_limit_ends_a_stream(runtime: ScriptedRuntime, command: str) -> None:
    """A stream that takes too long ends with an error event after what it had."""
    with serving(runtime.model, time_limit=0.3, header_seconds=0.01) as served:
        body = chat_body(command, stream=True)
        with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
            *_, last = events(response)
        assert json.loads(last)["error"]["code"] == "time_limit_reached"
        until(lambda: not runtime.open_streams)
        assert_serves(served)


def test_silent_stream_sends_comments(runtime: ScriptedRuntime) -> None:
    """While a request waits, its stream stays alive for proxies and shows a client that the server is."""
    with serving(runtime.model, header_seconds=0.01, comment_seconds=0.02) as served:
        body = chat_body("pause word", stream=True)
        with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(line for line in lines if line.startswith(":")) == ": waiting"
            runtime.gate.set()
            assert [line for line in lines if line.startswith("data:")][-1] == "data: [DONE]"


def test_request_in_the_queue_sends_a_comment(served: Served, runtime: ScriptedRuntime) -> None:
    """Deltas without text, by which a model tells a place in its queue, keep the stream alive."""
    body = chat_body("queue word", stream=True)
    with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": waiting"
        runtime.gate.set()
        assert [line for line in lines if line.startswith("data:")][-1] == "data: [DONE]"


def test_answers_that_get_no_thread_leave_nothing_taken(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no more threads, the request fails and its places are free again."""
    started: list[StreamListener] = []

    def start_two(self: StreamListener) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    start = StreamListener.start
    monkeypatch.setattr(StreamListener, "start", start_two)
    assert served.chat("forever", n=4).status_code == 500
    monkeypatch.undo()
    assert_serves(served)


def test_threads_end_with_their_answers(served: Served) -> None:
    """Nothing of an answer is left running."""
    for _ in range(5):
        served.chat("say hello", n=4)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("glm-listener")])


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_closes_its_half_gets_its_answer(
    served: Served, runtime: ScriptedRuntime, stream: bool
) -> None:
    """Whole or as a stream, however long it takes: who only stops sending still reads."""
    with post_raw(served, "/v1/chat/completions", chat_body("pause one two", stream=stream)) as client:
        client.shutdown(socket.SHUT_WR)
        until(lambda: runtime.open_streams)
        runtime.gate.set()
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert (b"[DONE]" if stream else b"one two") in answer
    assert_serves(served)
