"""``POST /v1/chat/completions``: answers, streams, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_support import NOTHING_CACHED, ScriptedRuntime, Served, chat_body, events, serving
from key_words import missing_words
from tiny_models import tiny_checkpoint2

import glm_core
from glm_core import Message, Usage


def streamed(served: Served, text: str, **fields: Any) -> list[Any]:
    """The chunks of a streamed answer, without the last line."""
    body = chat_body(text, stream=True, **fields)
    with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, done = events(response)
    assert done == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def refused(served: Served, **fields: Any) -> Any:
    """The error of a request that must be refused with 400."""
    response = served.http.post("/v1/chat/completions", json={**chat_body("say hello"), **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def test_whole_answer_has_openais_fields(served: Served) -> None:
    """An answer comes with its text, finish reason, usage and the model's full name."""
    answer = served.chat("say hello world").json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "scripted"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello world"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        **NOTHING_CACHED,
    }
    assert "dropped_messages" not in answer


def test_stream_gives_role_pieces_and_finish_reason(served: Served) -> None:
    """A stream's chunks share an id and hold the role, the pieces and the end, and no usage unasked."""
    chunks = streamed(served, "say 你好 world")
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "你好"},
        {"content": " world"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


def test_stream_tells_usage_when_asked(served: Served) -> None:
    """With include_usage one more chunk without choices has the tokens."""
    *others, last = streamed(served, "say hello", stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **NOTHING_CACHED}
    assert all(chunk["usage"] is None for chunk in others)


def test_several_answers_have_seeds_of_their_own(served: Served, runtime: ScriptedRuntime) -> None:
    """n=3 with seed 7 asks for seeds 7, 8, 9 and counts the prompt once."""
    answer = served.chat("say hello", n=3, seed=7).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert sorted(request.seed or 0 for request in runtime.requests) == [7, 8, 9]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
        **NOTHING_CACHED,
    }


def test_several_answers_stream_side_by_side(served: Served) -> None:
    """Each of n streams has its role, its text and its end under its own index."""
    chunks = streamed(served, "say hello world", n=2)
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in own) == "hello world"
        assert [choice["finish_reason"] for choice in own][-1] == "stop"


def test_every_field_reaches_the_model(served: Served, runtime: ScriptedRuntime) -> None:
    """Messages, sampling, stop strings and seed arrive as the client sent them."""
    fields = {"top_p": 0.5, "top_k": 3, "repetition_penalty": 1.5}
    fields |= {"presence_penalty": -1.0, "frequency_penalty": 2}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None, "tool_calls": None, "name": "glm"},
        {"role": "user", "content": "say four"},
    ]
    body = {"model": "default", "messages": messages, "seed": 5, "stop": ["a", "b"], "temperature": 1.5}
    assert served.http.post("/v1/chat/completions", json={**body, **fields, "max_tokens": 9}).is_success
    (request,) = runtime.requests
    assert request.messages == (
        Message("system", "be brief"),
        Message("user", "one two"),
        Message("assistant", "three"),
        Message("user", "say four"),
    )
    assert (request.seed, request.stop, request.adapter) == (5, ("a", "b"), None)
    assert {name: getattr(request.sampling, name) for name in fields} == fields
    assert (request.sampling.temperature, request.sampling.do_sample) == (1.5, True)
    assert request.sampling.max_new_tokens == 9


@pytest.mark.parametrize(
    ("fields", "do_sample", "tokens", "stop"),
    [
        ({}, None, None, ()),
        ({"temperature": 0, "max_completion_tokens": 4, "stop": "x"}, False, 4, ("x",)),
        ({"max_tokens": 4, "max_completion_tokens": 4, "stop": []}, None, 4, ()),
        ({"temperature": 1e-300}, False, None, ()),
    ],
)
def test_what_is_left_out_is_the_models_own(
    served: Served, runtime: ScriptedRuntime, fields: Any, do_sample: Any, tokens: Any, stop: Any
) -> None:
    """Only what a client names overrides the model's defaults; temperature 0 is greedy."""
    assert served.chat("say hello", **fields).is_success
    (request,) = runtime.requests
    assert (request.sampling.do_sample, request.sampling.max_new_tokens, request.stop) == (
        do_sample,
        tokens,
        stop,
    )


def test_what_clients_send_by_default_is_accepted(served: Served) -> None:
    """Values that ask for nothing special are no reason to refuse."""
    harmless = {
        "logprobs": False,
        "top_logprobs": 0,
        "n": 1,
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "functions": None,
        "stream": False,
        "stream_options": None,
        "logit_bias": {},
        "modalities": ["text"],
        "service_tier": "auto",
        "reasoning_effort": None,
        "stop": None,
        "seed": None,
    }
    assert served.chat("say hello", **harmless).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logprobs", True),
        ("logprobs", 0),
        ("top_logprobs", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("response_format", {}),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["audio"]),
        ("audio", {"voice": "x"}),
        ("reasoning_effort", "high"),
        ("store", True),
        ("service_tier", "flex"),
    ],
)
def test_unsupported_fields_are_refused_by_name(served: Served, field: str, value: object) -> None:
    """What this server cannot do is never silently left out."""
    error = refused(served, **{field: value})
    assert error["code"] == "unsupported_field"
    assert error["param"] == field
    assert "is not supported here" in error["message"]


def test_unknown_field_is_refused_by_name(served: Served) -> None:
    """A misspelt field is an error and not ignored."""
    error = refused(served, temprature=0.5)
    assert (error["param"], error["code"]) == ("temprature", "unknown_field")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"temperature": 2.1}, "temperature", "less than or equal to 2, got 2.1"),
        ({"temperature": "hot"}, "temperature", 'valid number, got "hot"'),
        ({"temperature": True}, "temperature", "valid number"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"n": 9}, "n", "less than or equal to 8"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "send one"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 2**63}, "seed", "less than or equal to"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "send stream: true as well"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"stop": 5}, "stop", "must be a string or a list, got 5"),
        ({"messages": "hello"}, "messages", 'must be a list, got "hello"'),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'system', 'developer'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content",
            "must be a string or a list, got null",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            "should be 'text'",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "must end with a user's message"),
        ({"messages": [{"role": "user", "content": " "}]}, None, "the question is empty"),
    ],
)
def test_wrong_values_are_refused_with_the_field_and_the_value(
    served: Served, fields: Any, param: str | None, message: str
) -> None:
    """A refusal names the field, what was seen and what was expected."""
    error = refused(served, **fields)
    assert error["param"] == param
    assert message in error["message"]


def test_missing_model_is_refused(served: Served) -> None:
    """A request must name a model."""
    body = {"messages": [{"role": "user", "content": "say hello"}]}
    response = served.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


def test_token_limit_of_the_server_holds(runtime: ScriptedRuntime) -> None:
    """--max-tokens bounds every answer and refuses requests for more."""
    with serving(runtime.model, max_tokens=8) as served:
        assert served.chat("say hello").is_success
        assert served.ask_original("say hello").is_success
        assert [request.sampling.max_new_tokens for request in runtime.requests] == [8, 8]
        error = served.chat("say hello", max_tokens=9).json()["error"]
    assert error["param"] == "max_tokens"
    assert not missing_words(error["message"], "at most 8", "got 9")


def test_dropped_messages_are_told(served: Served, runtime: ScriptedRuntime) -> None:
    """History that did not fit is never left out silently."""
    runtime.usage = Usage(3, 2, dropped_messages=4)
    assert served.chat("say hello").json()["dropped_messages"] == 4
    assert streamed(served, "say hello")[-1]["dropped_messages"] == 4
    assert served.ask_original("say hello").headers["x-dropped-messages"] == "4"


def test_unicode_line_ends_stay_inside_their_event(served: Served) -> None:
    """A text with U+2028 or U+0085 arrives whole, whatever a client takes for a line's end."""
    chunks = streamed(served, "say a\u2028b\x85c d")
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "a\u2028b\x85c d"


def test_reused_tokens_are_counted(tmp_path: Path) -> None:
    """A conversation's second question reports how much of its prompt the model still held."""
    directory = tiny_checkpoint2(tmp_path / "chatglm3")
    with glm_core.load(directory, device="cpu", slots=2) as model, serving(model) as served:
        body = chat_body("how do I quantise a model? " * 30, max_tokens=2)
        cached = [
            served.http.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens_details"]
            for _ in range(2)
        ]
    assert cached[0] == {"cached_tokens": 0}
    assert cached[1]["cached_tokens"] >= 128


@pytest.mark.parametrize("text", ["a\x00b", "\x00", "\x01\x7f", "\ufffe"])
def test_answer_with_any_character_can_be_sent_back(
    served: Served, runtime: ScriptedRuntime, text: str
) -> None:
    """What a model wrote, NUL included, is history like any other text."""
    said = served.chat(f"say {text}").json()["choices"][0]["message"]
    assert said["content"] == text
    messages = [{"role": "user", "content": f"say {text}"}, said, {"role": "user", "content": "say hello"}]
    body = {"model": "default", "messages": messages}
    assert served.http.post("/v1/chat/completions", json=body).is_success
    assert runtime.requests[-1].messages[1].content == text
    history = served.ask_original(f"say {text}").json()["history"]
    assert served.ask_original("say hello", history=history).json()["response"] == "hello"
