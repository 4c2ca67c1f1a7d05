"""Starting and ending the page, as ``glm run web`` does."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from child_process import ChildProcess, start_glm
from glm_frontend_web._serving import run
from glm_http.server import bind
from tiny_adapters import write_adapter
from web_support import site

import glm_core
from glm_core import ConfigError, PluginError

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the machine's proxies are


def url_of(process: ChildProcess) -> str:
    """Wait until the page is served; its address."""
    return process.wait_for(r" at (http://\S+)")[1]


@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "terminate", "hang-up"]
)
def test_the_command_serves_until_it_is_stopped(how: Any) -> None:
    """It prints the address, answers there with a safe page, and ends cleanly, without a traceback."""
    dead = "http://127.0.0.1:9"
    proxies = {"HTTP_PROXY": dead, "http_proxy": dead}  # a proxy for the web is no hindrance
    with start_glm("run", "web", "--port", "0", **proxies) as process:
        with OPENER.open(url_of(process)) as response:
            assert "script-src" in response.headers["content-security-policy"]
            assert "demo" in response.read().decode()
        process.send_signal(how)
        done = process.finish()
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "The page was closed" in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others reach the page"),
        (["--share"], "--share lets others reach the page"),
        (["--auth", "ann-secret"], "must be USER:PASS"),
        (["--port", "99999"], "--port must be between 0 and 65535, got 99999"),
        (["--root-path", "chat"], "--root-path must be a path"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: list[str], said: str) -> None:
    """Exit status 2, the sentence, no traceback, and no secret in it."""
    with start_glm("run", "web", *arguments) as process:
        done = process.finish()
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "ann-secret" not in done.stderr


def test_a_busy_port_is_told_before_the_model_is_opened() -> None:
    """No gigabytes are read for a page that cannot be served."""

    def open_model() -> None:
        raise AssertionError("the model was opened")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="is in use.*--port"):
            run(open_model, {"port": taken.getsockname()[1]})


def test_a_missing_api_is_told_before_the_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --with-api and no API installed, nothing is opened."""
    monkeypatch.setattr("glm_frontend_web._api.metadata.entry_points", lambda **_: [])

    def open_model() -> None:
        raise AssertionError("the model was opened")

    with pytest.raises(PluginError, match="pip install glm-frontend-api"):
        run(open_model, {"port": 0, "with_api": True})


def test_the_api_is_served_beside_the_page() -> None:
    """One address, one model: GET / is the page, POST / and /v1 are the API, with its key."""
    with site(options={"with_api": True, "api_key": "k"}) as both:
        with OPENER.open(both.url) as response:
            assert "gradio" in response.read().decode()
        for request, answer in (
            (urllib.request.Request(both.url, data=b"{}"), "scripted POST / k"),
            (urllib.request.Request(f"{both.url}v1/models"), "scripted GET /v1/models k"),
        ):
            with OPENER.open(request) as response:
                assert response.read().decode() == answer


def test_adapters_are_changed_through_the_api_beside_the_page(tmp_path: Path) -> None:
    """The command with a key and a folder: the default is told, and one adapter more is loaded."""
    for name in ("law", "poems"):
        write_adapter(tmp_path / name, glm_core.resolve_model("demo"))
    arguments = ("--with-api", "--adapter", str(tmp_path / "law"), "--adapters-dir", str(tmp_path))
    with start_glm("run", "web", "--port", "0", *arguments, GLM_API_KEY="k") as process:
        body = json.dumps({"name": "poems", "path": "poems"}).encode()
        headers = {"authorization": "Bearer k", "content-type": "application/json"}
        with OPENER.open(urllib.request.Request(f"{url_of(process)}v1/adapters", body, headers)) as response:
            assert json.load(response)["id"] == "demo:poems"
        process.send_signal(signal.SIGTERM)
        done = process.finish()
    assert done.returncode == 0
    assert "Adapter law answers unless a visitor chooses otherwise in the settings" in done.stderr


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_page_can_listen_on_ipv6() -> None:
    """The address is written with brackets, and is answered to."""
    try:
        bind("::1", 0).close()
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    with site(options={"host": "::1"}) as there:
        assert there.url.startswith("http://[::1]:")
        with OPENER.open(there.url) as response:
            assert response.status == 200
