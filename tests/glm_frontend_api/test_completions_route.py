"""``POST /v1/completions``: bare text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_support import NOTHING_CACHED, ScriptedRuntime, Served, events


def completion(served: Served, **fields: Any) -> Any:
    """The answer to a completion request."""
    body = {"model": "default", "prompt": "say hello", **fields}
    return served.http.post("/v1/completions", json=body).json()


def test_text_goes_on(served: Served, runtime: ScriptedRuntime) -> None:
    """A prompt reaches the model as bare text, and its continuation comes back."""
    answer = completion(served)
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}]
    (request,) = runtime.requests
    assert (request.prompt, request.messages) == ("say hello", ())
    assert request.sampling.max_new_tokens == 16


def test_several_prompts_and_answers_are_numbered(served: Served, runtime: ScriptedRuntime) -> None:
    """Answers to prompt p have indexes p*n to p*n + n - 1; each prompt counts once."""
    answer = completion(served, prompt=["say a", "say b"], n=2, seed=10)
    assert [choice["text"] for choice in answer["choices"]] == ["a", "a", "b", "b"]
    assert answer["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 8,
        "total_tokens": 14,
        **NOTHING_CACHED,
    }
    seeds = {(request.prompt, request.seed) for request in runtime.requests}
    assert seeds == {("say a", 10), ("say a", 11), ("say b", 12), ("say b", 13)}


def test_text_streams(served: Served) -> None:
    """Chunks hold text, and the last of them the finish reason."""
    body = {
        "model": "default",
        "prompt": "say a b",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with served.http.stream("POST", "/v1/completions", json=body) as response:
        *chunks, done = events(response)
    choices = [choice for chunk in chunks for choice in json.loads(chunk)["choices"]]
    assert done == "[DONE]"
    assert [choice["text"] for choice in choices] == ["a", " b", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert json.loads(chunks[-1])["usage"]["total_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 9}, "prompt"),
        ({"prompt": ["x"] * 3, "n": 3}, "n"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 1}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(served: Served, fields: Any, param: str) -> None:
    """Token arrays, echo, suffix and the like are refused, and so are too many answers."""
    assert completion(served, **fields)["error"]["param"] == param


def test_defaults_of_clients_are_accepted(served: Served) -> None:
    """What clients send when asked for nothing special is no reason to refuse."""
    assert "choices" in completion(served, echo=False, suffix=None, best_of=1, logprobs=None, n=1)
