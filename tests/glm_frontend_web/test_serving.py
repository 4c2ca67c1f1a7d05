"""Starting and ending the page, as ``glm run web`` does."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from glm_frontend_web._options import find_port
from glm_frontend_web._serving import run
from tiny_adapters import write_adapter
from web_support import site

import glm_core
from glm_core import ConfigError, PluginError

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the machine's proxies are


def start(*arguments, **environment):
    """Run the command in a process of its own; it is told to speak English."""
    return subprocess.Popen(
        [sys.executable, "-m", "glm_core", "run", "web", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GLM_LANG": "en", **environment},
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_the_command_serves_until_it_is_stopped(how):
    """It prints the address, answers there with a safe page, and ends cleanly, without a traceback."""
    dead = "http://127.0.0.1:9"
    process = start("--port", "0", HTTP_PROXY=dead, http_proxy=dead)  # a proxy for the web is no hindrance
    try:
        line = process.stdout.readline()
        url = line.partition(" at ")[2].split()[0]
        with OPENER.open(url) as response:
            assert "script-src" in response.headers["content-security-policy"]
            assert "demo" in response.read().decode()
        process.send_signal(how)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "The page was closed" in errors
    assert out == ""


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
def test_a_wrong_option_is_one_sentence(arguments, said):
    """Exit status 2, the sentence, no traceback, and no secret in it."""
    process = start(*arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in errors
    assert "Traceback" not in errors
    assert "ann-secret" not in errors


def test_a_busy_port_is_told_before_the_model_is_opened():
    """No gigabytes are read for a page that cannot be served."""

    def open_model():
        raise AssertionError("the model was opened")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            run(open_model, {"port": taken.getsockname()[1]})


def test_a_missing_api_is_told_before_the_model_is_opened(monkeypatch):
    """With --with-api and no API installed, nothing is opened."""
    monkeypatch.setattr("glm_frontend_web._api.metadata.entry_points", lambda **_: [])

    def open_model():
        raise AssertionError("the model was opened")

    with pytest.raises(PluginError, match="pip install glm-frontend-api"):
        run(open_model, {"port": 0, "with_api": True})


def test_the_api_is_served_beside_the_page():
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


def test_adapters_are_changed_through_the_api_beside_the_page(tmp_path):
    """The command with a key and a folder: the default is told, and one adapter more is loaded."""
    for name in ("law", "poems"):
        write_adapter(tmp_path / name, glm_core.resolve_model("demo"))
    arguments = ("--with-api", "--adapter", str(tmp_path / "law"), "--adapters-dir", str(tmp_path))
    process = start("--port", "0", *arguments, GLM_API_KEY="k")
    try:
        url = process.stdout.readline().partition(" at ")[2].split()[0]
        body = json.dumps({"name": "poems", "path": "poems"}).encode()
        headers = {"authorization": "Bearer k", "content-type": "application/json"}
        with OPENER.open(urllib.request.Request(f"{url}v1/adapters", body, headers)) as response:
            assert json.load(response)["id"] == "demo:poems"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Adapter law answers unless a visitor chooses otherwise in the settings" in errors


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_page_can_listen_on_ipv6():
    """The address is written with brackets, and is answered to."""
    try:
        find_port("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    with site(options={"host": "::1"}) as there:
        assert there.url.startswith("http://[::1]:")
        with OPENER.open(there.url) as response:
            assert response.status == 200
