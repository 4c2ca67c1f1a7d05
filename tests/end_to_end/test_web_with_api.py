"""``glm run web --with-api``: the page and the API, of two packages that do not know each other."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import pytest
from child_process import start_glm
from patience import PATIENCE_SECONDS


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    """A client of a server in a process of its own, on the demo model."""
    with start_glm("run", "web", "--with-api", "--port", "0", "--no-inbrowser") as process:
        url = process.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:
            yield client
        process.send_signal(signal.SIGINT)
        done = process.finish()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_page_and_api_answer_side_by_side(server: httpx.Client) -> None:
    """The page is at GET /; OpenAI's routes, the original's POST / and the health checks are the API's."""
    assert "gradio" in server.get("/").text
    assert server.get("/health").status_code == 200
    assert server.get("/ready").status_code == 200
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["demo"]
    body = {"model": "demo", "messages": [{"role": "user", "content": "你好"}]}
    answer = server.post("/v1/chat/completions", json=body).json()
    assert "你好" in answer["choices"][0]["message"]["content"]
    original = server.post("/", json={"prompt": "你好", "history": []}).json()
    assert set(original) == {"response", "history", "status", "time"}


def test_foreign_host_is_refused_by_both(server: httpx.Client) -> None:
    """A page elsewhere that resolves its own name to this machine reaches neither page nor API."""
    for path in ("/", "/v1/models"):
        assert server.get(path, headers={"host": "evil.example"}).status_code >= 400
