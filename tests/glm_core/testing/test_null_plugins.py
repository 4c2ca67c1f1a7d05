"""Tests of the smallest complete plugins, which double as an example of how plugins are tested."""

from __future__ import annotations

import pytest

from glm_core import ChatRequest, ClosedError, Message
from glm_core.cli import run as run_command
from glm_core.records import ModelSource, Placement
from glm_core.testing import host_of, null_backend, null_frontend


def test_null_frontend_runs_on_the_null_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``glm run null --model null`` takes a question through every stage to the terminal."""
    host = host_of(backend=null_backend, frontend=null_frontend)
    monkeypatch.setattr(run_command, "default_host", lambda: host)
    assert run_command.run(["null", "--model", "null", "--question", "how are you"]) == 0
    assert capsys.readouterr().out == "how are you\n"


def test_null_plugins_load_and_answer_what_they_describe() -> None:
    """Neither is broken, and together they answer every hook of a chat."""
    host = host_of(backend=null_backend, frontend=null_frontend)
    assert [report.status for report in host.reports] == ["ok", "ok"]
    answered = {hook for report in host.reports for hook in report.hooks}
    assert {"load_model", "place", "chat_stream", "describe_backend", "describe_frontend"} <= answered


def test_null_runtime_declines_what_is_not_its_own() -> None:
    """Another model's name, and another runtime's model, are answered with ``None``."""
    request = ChatRequest((Message("user", "hi"),))
    assert null_backend.load_model(ModelSource("other")) is None
    assert null_backend.place(object(), Placement(("null",))) is None
    assert null_backend.chat_stream(object(), request) is None


def test_null_runtime_goes_on_from_bare_text() -> None:
    """A request with a prompt and no messages is answered too."""
    model = null_backend.load_model(ModelSource("null"))
    assert model is not None
    deltas = null_backend.chat_stream(model, ChatRequest(prompt="one two"))
    assert deltas is not None
    assert "".join(delta.text for delta in deltas) == "one two"


def test_null_model_refuses_requests_once_closed() -> None:
    """The error comes from the call, before anything is read."""
    model = null_backend.load_model(ModelSource("null"))
    assert model is not None
    model.close()
    with pytest.raises(ClosedError):
        null_backend.chat_stream(model, ChatRequest((Message("user", "hi"),)))
