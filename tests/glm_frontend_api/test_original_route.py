"""``POST /``: what the original's clients send and get."""

from __future__ import annotations

import datetime
from typing import Any

import httpx
import pytest
from api_support import ScriptedRuntime, Served
from patience import PATIENCE_SECONDS

from glm_core import Message


def test_history_grows_by_each_turn(served: Served, runtime: ScriptedRuntime) -> None:
    """The four fields come back, and the history that was returned can be sent again."""
    first = served.ask_original("say 你好").json()
    assert set(first) == {"response", "history", "status", "time"}
    assert first["response"] == "你好"
    assert first["history"] == [["say 你好", "你好"]]
    assert first["status"] == 200
    datetime.datetime.strptime(first["time"], "%Y-%m-%d %H:%M:%S")
    second = served.ask_original("say again", history=first["history"]).json()
    assert second["history"] == [["say 你好", "你好"], ["say again", "again"]]
    assert runtime.requests[1].messages == (
        Message("user", "say 你好"),
        Message("assistant", "你好"),
        Message("user", "say again"),
    )


@pytest.mark.parametrize(
    "empty", [{}, {"max_length": None, "top_p": None, "temperature": None}, {"history": None}]
)
def test_left_out_and_null_are_the_models_defaults(
    served: Served, runtime: ScriptedRuntime, empty: dict[str, Any]
) -> None:
    """As in the original, what is not given is the default; 0 is the default as well."""
    assert served.ask_original("say hello", **empty).is_success
    assert served.ask_original("say hello", max_length=0, top_p=0, temperature=0).is_success
    for request in runtime.requests:
        sampling = request.sampling
        assert (sampling.max_length, sampling.top_p, sampling.temperature, sampling.do_sample) == (None,) * 4


def test_sampling_fields_reach_the_model(served: Served, runtime: ScriptedRuntime) -> None:
    """max_length, top_p and temperature are passed on; a temperature means sampling."""
    assert served.ask_original("say hello", max_length=99, top_p=0.6, temperature=0.8).is_success
    sampling = runtime.requests[0].sampling
    assert (sampling.max_length, sampling.top_p, sampling.temperature) == (99, 0.6, 0.8)
    assert sampling.do_sample is True


def test_body_without_content_type_is_read(served: Served) -> None:
    """Old programs post JSON and say nothing of its type."""
    answer = httpx.post(
        served.url, content=b'{"prompt": "say hello", "history": []}', timeout=PATIENCE_SECONDS
    )
    assert answer.json()["response"] == "hello"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "the question is empty"),
        ({"prompt": 5}, "prompt: must be a string, got 5"),
        ({"history": [["a"]]}, "history[0]"),
        ({"history": [["a", "b", "c"]]}, "history[0]"),
        ({"history": "x"}, "history: must be a list"),
        ({"top_p": 2}, "top_p"),
        ({"tools": []}, "tools is not a field of this route"),
        ({"max_new_tokens": 4}, "max_new_tokens is not a field of this route"),
    ],
)
def test_errors_have_their_own_simple_shape(served: Served, fields: Any, message: str) -> None:
    """A refusal is a sentence, the status and the time."""
    answer = served.http.post("/", json={"prompt": "say hello", **fields})
    assert answer.status_code == 400
    body = answer.json()
    assert set(body) == {"error", "status", "time"}
    assert body["status"] == 400
    assert message in body["error"]


def test_other_methods_are_refused_in_that_shape(served: Served) -> None:
    """GET / tells that the route takes POST."""
    answer = served.http.get("/")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"] == "this route takes POST"
