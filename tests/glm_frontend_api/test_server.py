"""Binding, serving and stopping, in this process and as ``glm run api``."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import PATIENCE, ScriptedRuntime, chat_body, events, serving, until
from child_process import ChildProcess, start_glm
from glm_frontend_api import server
from glm_frontend_api.service import Service
from glm_http.server import Server, bind, format_url
from glm_testing import make_host
from tiny_adapters import write_adapter

import glm_core
import glm_core.compat as ChatGLM6Bpkg
from glm_core import ChatModel, ConfigError


def never_opened() -> ChatModel:
    """A model that must not be opened."""
    raise AssertionError("the model was opened")


def test_busy_port_is_one_sentence_before_the_model_is_opened() -> None:
    """A port in use is found before gigabytes are read."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use; .*--port"):
            server.run(never_opened, {"port": port})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 lets other machines in"),
        ({"workers": 2}, "--workers 2"),
        ({"host": "no.such.host.invalid", "insecure": True}, "no address of that name"),
        ({"host": "192.0.2.1", "insecure": True, "port": 0}, "this machine has no address 192.0.2.1"),
    ],
)
def test_wrong_options_are_found_before_the_model_is_opened(options: Any, message: str) -> None:
    """Nothing is loaded for a server that cannot start."""
    with pytest.raises(ConfigError, match=message):
        server.run(never_opened, options)


@pytest.mark.parametrize(("host", "shown"), [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")])
def test_address_is_shown_as_a_url(host: str, shown: str) -> None:
    """The URL has the port that was given by the system."""
    with bind(host, 0) as listener:
        assert format_url(listener) == f"http://{shown}:{listener.getsockname()[1]}"


def test_small_pieces_are_sent_at_once(runtime: ScriptedRuntime) -> None:
    """Nagle's algorithm, which would hold tokens back, is off on every connection."""
    with serving(runtime.model) as served:
        assert served.chat("say hello").is_success
        (connection,) = served.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_loopback_is_served(runtime: ScriptedRuntime) -> None:
    """--host ::1 works and its URL has brackets."""
    try:
        with serving(runtime.model, host="::1") as served:
            assert served.url.startswith("http://[::1]:")
            assert served.chat("say hello").is_success
    except ConfigError as error:  # a container without the address
        pytest.skip(str(error))


def test_draining_finishes_what_runs_and_refuses_the_rest(runtime: ScriptedRuntime) -> None:
    """After the signal a running stream ends as it would have; new requests get a 503 meanwhile."""
    with serving(runtime.model, drain_seconds=PATIENCE, header_seconds=0.01) as served:
        body = chat_body("pause one two", stream=True)
        with served.http.stream("POST", "/v1/chat/completions", json=body) as running:
            until(lambda: runtime.open_streams)
            served.server.handle_exit(signal.SIGTERM, None)
            refused = httpx.post(
                f"{served.url}/v1/chat/completions", json=chat_body("say hello"), timeout=PATIENCE
            )
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_stopping"
            assert refused.headers["retry-after"] == "1"
            assert httpx.get(f"{served.url}/health", timeout=PATIENCE).status_code == 200
            assert httpx.get(f"{served.url}/ready", timeout=PATIENCE).json() == {
                "status": "not ready: the server is stopping"
            }
            runtime.gate.set()
            *_, last, done = events(running)
        assert done == "[DONE]"
        assert json.loads(last)["choices"][0]["finish_reason"] == "stop"
        until(lambda: served.server.should_exit)


@pytest.mark.parametrize("command", ["forever", "hang", "hang hard"])
@pytest.mark.parametrize("signals", [1, 2])
def test_drain_limit_and_second_signal_end_what_still_runs(
    runtime: ScriptedRuntime, command: str, signals: int
) -> None:
    """At the limit, or at a second signal before it, streams end with an error event, never a cut."""
    seconds = 0.0 if signals == 1 else PATIENCE
    with serving(runtime.model, drain_seconds=seconds, header_seconds=0.01) as served:
        body = chat_body(command, stream=True)
        with served.http.stream("POST", "/v1/chat/completions", json=body) as running:
            until(lambda: runtime.open_streams)
            for _ in range(signals):
                served.server.handle_exit(signal.SIGINT, None)
            *_, last = events(running)
        assert json.loads(last)["error"]["code"] == "server_stopping"


def test_whole_answers_get_a_503_at_the_drain_limit(runtime: ScriptedRuntime) -> None:
    """A request that is not a stream is told as well that the server stops."""
    with serving(runtime.model) as served, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(served.chat, "hang")
        until(lambda: runtime.open_streams)
        served.server.drain()
        assert waiting.result().status_code == 503


def url_of(process: ChildProcess) -> str:
    """Wait until the demo model is served; its address."""
    return process.wait_for(r"serving demo on (http://\S+)")[1]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_glm_run_api_serves_and_stops_cleanly(signal_number: int) -> None:
    """The command serves the demo model; a signal lets a running stream finish and exits with 0."""
    with start_glm("run", "api", "--port", "0") as process:
        url = url_of(process)
        assert httpx.get(f"{url}/ready", timeout=PATIENCE).json() == {"status": "ready"}
        body = {**chat_body("How do I quantise a model?", stream=True), "model": "demo"}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE) as response:
            stream = events(response)
            next(stream)
            process.send_signal(signal_number)
            assert list(stream)[-1] == "[DONE]"
        done = process.finish()
    assert done.returncode == 0
    assert done.stderr.partition(f"serving demo on {url}")[2].splitlines()[1:] == ["glm: stopped"]


def test_glm_run_api_changes_adapters_for_who_has_the_key(tmp_path: Path) -> None:
    """The command as an operator starts it: the default is told, one adapter more comes and goes."""
    for name in ("ads", "poet"):
        write_adapter(tmp_path / name, glm_core.resolve_model("demo"))
    arguments = ("--port", "0", "--adapter", str(tmp_path / "ads"), "--adapters-dir", str(tmp_path))
    with start_glm("run", "api", *arguments, GLM_API_KEY="k") as process:
        headers = {"authorization": "Bearer k"}
        with httpx.Client(
            base_url=url_of(process), headers=headers, trust_env=False, timeout=PATIENCE
        ) as client:
            added = client.post("/v1/adapters", json={"name": "poet", "path": "poet"})
            assert added.json()["id"] == "demo:poet"
            assert client.post("/v1/chat/completions", json=chat_body("hello", model="poet")).is_success
            default = client.post("/v1/chat/completions", json=chat_body("hello")).json()
            assert default["model"] == "demo:ads"
            assert client.delete("/v1/adapters/poet").is_success
            assert [card["id"] for card in client.get("/v1/adapters").json()["data"]] == ["demo:ads"]
        process.send_signal(signal.SIGTERM)
        done = process.finish()
    assert done.returncode == 0
    assert "glm: 'default' and POST / are demo:ads, the only adapter; without it: demo" in done.stderr


def test_glm_run_api_serves_beside_idle_clients_with_few_files() -> None:
    """With 256 open files and 500 idle clients, good requests are answered and the log has one line."""
    limited = f"ulimit -n 256 && exec {shlex.quote(sys.executable)} -m glm_core run api --port 0"
    with ChildProcess("bash", "-c", limited) as process, contextlib.ExitStack() as stack:
        url = url_of(process)
        port = int(url.rsplit(":", 1)[1])
        for _ in range(500):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))

        def answer() -> int:
            """Return the status of a good request, or 0 where the connection was turned away."""
            try:
                return httpx.post(
                    f"{url}/v1/chat/completions", json=chat_body("hello", max_tokens=2), timeout=PATIENCE
                ).status_code
            except httpx.TransportError:
                return 0

        until(lambda: answer() == 200)  # for a second after they came, idle clients do not count as idle
        assert [answer() for _ in range(10)] == [200] * 10
        process.send_signal(signal.SIGTERM)
        done = process.finish()
    assert done.returncode == 0
    assert done.stderr.count("ulimit -n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_glm_run_api_serves_with_a_log_on_a_full_disk() -> None:
    """Nothing that is printed or logged can be written: it starts, answers, fails requests, and stops."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-m", "glm_core", "run", "api", "--port", str(port))

    def is_up() -> bool:
        assert process.returncode is None
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/ready", timeout=PATIENCE).is_success
        return False

    with open("/dev/full", "w") as full, ChildProcess(*command, stderr=full.fileno()) as process:
        until(is_up)
        assert httpx.post(url, json={"prompt": "hello", "max_length": 2000}, timeout=PATIENCE).is_success
        process.send_signal(signal.SIGTERM)
        process.finish()


def test_glm_run_api_keeps_its_key_to_itself() -> None:
    """With GLM_API_KEY the routes are locked, and the key is nowhere in what is printed."""
    with start_glm("run", "api", "--port", "0", "--host", "0.0.0.0", GLM_API_KEY="s3cr3t-key") as process:
        port = url_of(process).rsplit(":", 1)[1]
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/v1/models", timeout=PATIENCE).status_code == 401
        headers = {"authorization": "Bearer s3cr3t-key"}
        assert httpx.get(f"{url}/v1/models", headers=headers, timeout=PATIENCE).status_code == 200
        process.send_signal(signal.SIGTERM)
        done = process.finish()
    assert done.returncode == 0
    assert "s3cr3t-key" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "lets other machines in"),
        (["--workers", "2"], "one process serves all requests"),
    ],
)
def test_glm_run_api_explains_a_wrong_option_in_one_line(arguments: list[str], message: str) -> None:
    """A user's mistake is one line on standard error and exit status 2."""
    with start_glm("run", "api", *arguments) as process:
        done = process.finish()
    assert done.returncode == 2
    assert done.stderr.startswith("glm: --")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def in_memory(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> ScriptedRuntime:
    """Have ChatGLM6Bpkg's calls find this frontend, and the scripted model for any model in memory."""
    from glm_frontend_api import plugin

    monkeypatch.setattr(ChatGLM6Bpkg, "get_default_host", lambda: make_host(api=plugin))
    monkeypatch.setattr(ChatGLM6Bpkg, "adopt_model", lambda host, model, tokenizer: runtime.model)
    return runtime


def test_launch_server_serves_a_model_in_memory(
    in_memory: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's call answers the original's request on a free port where 0 is given."""
    servers: list[Server] = []
    build_server = server.build_server

    def remember(service: Service) -> Server:
        servers.append(build_server(service))
        return servers[-1]

    monkeypatch.setattr(server, "build_server", remember)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            ChatGLM6Bpkg.launch_server, model=object(), tokenizer=object(), port=0, workers=1
        )
        until(lambda: servers and servers[0].started)
        port = servers[0].servers[0].sockets[0].getsockname()[1]
        answer = httpx.post(
            f"http://127.0.0.1:{port}", json={"prompt": "say hello", "history": []}, timeout=PATIENCE
        )
        servers[0].drain()
        running.result(PATIENCE)
    assert answer.json()["history"] == [["say hello", "hello"]]


def test_launch_server_on_all_interfaces_needs_a_key(in_memory: ScriptedRuntime) -> None:
    """The original's host, which let everybody in, is refused with what to do."""
    with pytest.raises(ConfigError, match="GLM_API_KEY"):
        ChatGLM6Bpkg.launch_server(model=object(), tokenizer=object(), host="0.0.0.0")
