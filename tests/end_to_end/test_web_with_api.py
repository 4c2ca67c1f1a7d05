"""``glm run web --with-api``: the page and the API, of two packages that do not know each other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server in a process of its own, on the demo model."""
    process = subprocess.Popen(
        [sys.executable, "-m", "glm_core", "run", "web", "--with-api", "--port", "0", "--no-inbrowser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "GLM_LANG": "en", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            break
    else:
        pytest.fail("".join(lines))
    yield found[0]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def test_page_and_api_answer_side_by_side(url: str) -> None:
    """The page is at GET /; OpenAI's routes, the original's POST / and the health checks are the API's."""
    assert "gradio" in httpx.get(url, timeout=60).text
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/ready", timeout=60).status_code == 200
    assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["demo"]
    body = {"model": "demo", "messages": [{"role": "user", "content": "你好"}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert "你好" in answer["choices"][0]["message"]["content"]
    original = httpx.post(url, json={"prompt": "你好", "history": []}, timeout=60).json()
    assert set(original) == {"response", "history", "status", "time"}


def test_foreign_host_is_refused_by_both(url: str) -> None:
    """A page elsewhere that resolves its own name to this machine reaches neither page nor API."""
    for path in ("/", "/v1/models"):
        assert httpx.get(url + path, headers={"host": "evil.example"}, timeout=60).status_code >= 400
