"""Unmodified clients against the bundled demo model: openai, LangChain, and the original's curl."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_support import Served, serving
from child_process import run
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from glm_core import ChatModel

QUESTION = "How do I quantise a model?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def keyed(demo_model: ChatModel) -> Iterator[Served]:
    """The demo model behind a key."""
    with serving(demo_model, api_key="secret") as served:
        yield served


@pytest.fixture
def client(keyed: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, pointed at the server."""
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="secret", max_retries=0) as client:
        yield client


@pytest.fixture
def langchain(keyed: Served) -> ChatOpenAI:
    """LangChain's chat model, pointed at the server."""
    return ChatOpenAI(
        base_url=f"{keyed.url}/v1", api_key=SecretStr("secret"), model="demo", temperature=0, max_retries=0
    )


@pytest.fixture(scope="module")
def expected(demo_model: ChatModel) -> str:
    """What the model answers without any server."""
    reply, _ = demo_model.chat(QUESTION, temperature=0, do_sample=False)
    return reply


def test_openai_client_chats(client: openai.OpenAI, expected: str) -> None:
    """The answer is the model's own, with usage and finish reason."""
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert (answer._request_id or "").startswith("req-")


def test_openai_client_streams_with_usage(client: openai.OpenAI, expected: str) -> None:
    """The pieces of a stream make up the same answer, and the last chunk tells usage."""
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected
    assert len(chunks) > 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_openai_client_stream_helper_collects(client: openai.OpenAI, expected: str) -> None:
    """The client's own collecting of a stream gives a whole answer."""
    with client.chat.completions.stream(model="demo", messages=MESSAGES, temperature=0) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == expected


def test_openai_client_stops(client: openai.OpenAI, expected: str) -> None:
    """A stop string ends the answer before it; max_tokens ends it with length."""
    stop = expected[4:8]
    stopped = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0, stop=[stop])
    assert stopped.choices[0].message.content == expected[: expected.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    short = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 2


def test_openai_client_repeats_by_seed(client: openai.OpenAI) -> None:
    """The same seed gives the same sampled answer, and n answers use the seeds that follow."""
    settings: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "temperature": 1.5, "max_tokens": 24}
    both = client.chat.completions.create(**settings, seed=1, n=2)
    second = client.chat.completions.create(**settings, seed=2)
    again = client.chat.completions.create(**settings, seed=1)
    assert both.choices[0].message.content == again.choices[0].message.content
    assert both.choices[1].message.content == second.choices[0].message.content


def test_openai_client_completes_bare_text(client: openai.OpenAI) -> None:
    """Completions go on from a prompt, whole and streamed the same."""
    settings: dict[str, Any] = {"model": "demo", "prompt": "glm run", "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**settings)
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 6
    pieces = client.completions.create(**settings, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == whole.choices[0].text


def test_openai_client_lists_models(client: openai.OpenAI) -> None:
    """The model is listed and found by its name."""
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "glm"


def test_openai_client_raises_its_own_errors(client: openai.OpenAI, keyed: Served) -> None:
    """Refusals become the client's exceptions, with param and code."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=MESSAGES, logprobs=True)
    assert (refused.value.param, refused.value.code) == ("logprobs", "unsupported_field")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="demo", input="hello")
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as locked,
    ):
        stranger.models.list()
    assert locked.value.code == "invalid_api_key"


def test_langchain_chats(langchain: ChatOpenAI, expected: str) -> None:
    """LangChain gets the answer and its token counts."""
    answer = langchain.invoke(QUESTION)
    assert answer.content == expected
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def test_langchain_streams(langchain: ChatOpenAI, expected: str) -> None:
    """LangChain's stream makes up the same answer, with usage when asked."""
    chunks = list(langchain.stream(QUESTION, stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == expected
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def test_langchain_stops_and_keeps_a_conversation(langchain: ChatOpenAI, expected: str) -> None:
    """Stop strings work, and messages of all roles are understood."""
    stop = expected[4:8]
    assert langchain.invoke(QUESTION, stop=[stop]).content == expected[: expected.index(stop)]
    turns = [("system", "Be brief."), ("human", "My name is Ada."), ("ai", "Hello Ada!"), ("human", "hello")]
    assert langchain.invoke(turns).content


def test_langchain_shows_errors(langchain: ChatOpenAI) -> None:
    """What the server cannot do reaches LangChain's user by name."""
    with pytest.raises(openai.BadRequestError, match="response_format.* is not supported here"):
        langchain.bind(response_format={"type": "json_object"}).invoke(QUESTION)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_original_curl_command_grows_its_history(demo: Served) -> None:
    """The original's curl line gets its four fields, and its history can be sent back."""

    def curl(body: object) -> dict[str, object]:
        command = ["curl", "-s", "-X", "POST", demo.url, "-H", "Content-Type: application/json"]
        done = run(*command, "-d", json.dumps(body))
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    first = curl({"prompt": "你好", "history": []})
    assert set(first) == {"response", "history", "status", "time"}
    assert first["status"] == 200
    assert first["history"] == [["你好", first["response"]]]
    second = curl({"prompt": "怎么量化？", "history": first["history"]})
    assert second["history"] == [["你好", first["response"]], ["怎么量化？", second["response"]]]
