"""Unmodified clients have a two-tool conversation in ChatGLM3's format, a script standing in for weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from api_support import Served, serving
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from scripted_tools import TIME, WEATHER, call_turn, scripted_model, written_answer
from tiny_models import tiny_checkpoint2

from glm_core import Message, Tool, ToolCall

QUESTION = "北京天气怎么样，现在几点？"
RESULTS = {"get_weather": '{"temperature": 22}', "get_time": "13:05"}
ARGUMENTS = {"get_weather": {"city": "北京"}, "get_time": {"zone": "Asia/Shanghai"}}
LAST = "22 度，13:05。"
PUBLISHED = os.environ.get("GLM_FIXTURES")


def as_openai(tool: Tool, *, strict: bool | None = None) -> dict[str, Any]:
    """A tool as OpenAI's clients send it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function | ({} if strict is None else {"strict": strict})}


TOOLS = [as_openai(WEATHER), as_openai(TIME)]


@pytest.fixture(
    scope="module",
    params=[
        "own vocabulary",
        pytest.param(
            "published vocabulary",
            marks=pytest.mark.skipif(PUBLISHED is None, reason="GLM_FIXTURES names no published vocabulary"),
        ),
    ],
)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3Tokenizer:
    """ChatGLM3's format over a vocabulary of the test's own, and over the published one."""
    if request.param == "own vocabulary":
        return ChatGLM3Tokenizer(tiny_checkpoint2(tmp_path_factory.mktemp("vocabulary")))
    return ChatGLM3Tokenizer(Path(PUBLISHED or "") / "tokenizers" / "chatglm2-6b")


@pytest.fixture
def served(tokenizer: ChatGLM3Tokenizer) -> Iterator[Served]:
    """A model that asks for the weather, then for the time, and then answers.

    It looks at its prompt alone: each stage must hold exactly the turns that ChatGLM3 was trained with.
    """
    calls = (
        Message("assistant", "", (ToolCall("1", "get_weather", json.dumps(ARGUMENTS["get_weather"])),)),
        Message("assistant", "", (ToolCall("2", "get_time", json.dumps(ARGUMENTS["get_time"])),)),
    )
    results = (
        Message("tool", RESULTS["get_weather"], tool_call_id="1"),
        Message("tool", RESULTS["get_time"], tool_call_id="2"),
    )
    said = (
        written_answer(tokenizer, call_turn("get_weather", "city='北京'"), end="<|observation|>"),
        written_answer(tokenizer, call_turn("get_time", "zone='Asia/Shanghai'"), end="<|observation|>"),
        written_answer(tokenizer, ("", LAST)),
    )
    told = [Message("user", QUESTION)]
    stages: dict[tuple[int, ...], Sequence[int]] = {}
    for number, answer in enumerate(said):
        stages[tuple(tokenizer.encode_chat(told, (WEATHER, TIME)))] = answer
        if number < 2:
            told += [calls[number], results[number]]
    model, _ = scripted_model(tokenizer, lambda prompt: stages[tuple(prompt)])
    with model, serving(model) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def whole(client: openai.OpenAI, messages: list[Any]) -> Any:
    """One answer, asked for as a whole."""
    answer = client.chat.completions.create(model="default", messages=messages, tools=TOOLS)  # type: ignore[arg-type]
    return answer.choices[0]


def streamed(client: openai.OpenAI, messages: list[Any]) -> Any:
    """One answer, put together by the client's own helper, which takes strict tools only."""
    tools = [as_openai(WEATHER, strict=True), as_openai(TIME, strict=True)]
    with client.chat.completions.stream(model="default", messages=messages, tools=tools) as stream:  # type: ignore[arg-type]
        kinds = [event.type for event in stream]
        choice = stream.get_final_completion().choices[0]
    calls = choice.message.tool_calls or []
    assert kinds.count("tool_calls.function.arguments.done") == len(calls)
    for call in calls:
        assert call.function.parsed_arguments == ARGUMENTS[call.function.name]
    return choice


@pytest.mark.parametrize("ask", [whole, streamed])
def test_openai_client_uses_two_tools(client: openai.OpenAI, ask: Any) -> None:
    """Call, answer, call, answer, text: the client's own objects are sent back as they came."""
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    for name in ("get_weather", "get_time"):
        choice = ask(client, messages)
        assert choice.finish_reason == "tool_calls"
        assert not choice.message.content
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", name)
        assert json.loads(call.function.arguments) == ARGUMENTS[name]
        sent_back = choice.message.to_dict() if ask is whole else as_sent(choice.message)
        messages += [sent_back, {"role": "tool", "tool_call_id": call.id, "content": RESULTS[name]}]
    choice = ask(client, messages)
    assert (choice.message.content, choice.finish_reason) == (LAST, "stop")
    assert not choice.message.tool_calls


def as_sent(message: Any) -> dict[str, Any]:
    """A parsed message as a request takes it: what the client parsed for its user stays behind."""
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for call in message.tool_calls
    ]
    return {"role": "assistant", "content": message.content, "tool_calls": calls}


def test_openai_client_reads_raw_chunks(client: openai.OpenAI) -> None:
    """Without the helper, the chunks' deltas give name, id and arguments by index."""
    tools: Any = TOOLS
    chunks = list(
        client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": QUESTION}],
            tools=tools,
            stream=True,
        )
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert {call.index for call in calls} == {0}
    assert calls[0].function is not None
    assert (calls[0].type, calls[0].function.name, calls[0].function.arguments) == (
        "function",
        "get_weather",
        "",
    )
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == ARGUMENTS["get_weather"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""


def invoked(model: Any, messages: list[Any]) -> AIMessage:
    """One answer of LangChain's, as a whole."""
    answer = model.invoke(messages)
    assert isinstance(answer, AIMessage)
    return answer


def added_up(model: Any, messages: list[Any]) -> AIMessage:
    """One answer of LangChain's, from the sum of its chunks."""
    chunks = list(model.stream(messages))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return AIMessage(content=total.content, tool_calls=total.tool_calls)


@pytest.mark.parametrize("ask", [invoked, added_up])
def test_langchain_uses_two_bound_tools(served: Served, ask: Any) -> None:
    """``bind_tools`` and LangChain's messages carry the same conversation."""
    chat = ChatOpenAI(base_url=f"{served.url}/v1", api_key=SecretStr("none"), model="default", max_retries=0)
    model = chat.bind_tools(TOOLS)
    messages: list[Any] = [HumanMessage(QUESTION)]
    for name in ("get_weather", "get_time"):
        answer = ask(model, messages)
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == (name, ARGUMENTS[name])
        messages += [answer, ToolMessage(RESULTS[name], tool_call_id=call["id"])]
    answer = ask(model, messages)
    assert (answer.content, answer.tool_calls) == (LAST, [])


def test_langchain_can_name_the_tool(tokenizer: ChatGLM3Tokenizer) -> None:
    """``tool_choice`` of ``bind_tools`` makes a model call that would rather have talked."""
    line = len(tokenizer.encode("get_time\n"))
    script = written_answer(tokenizer, ("", "x" * 60))[:line]
    script += written_answer(tokenizer, call_turn("get_time", "zone='Asia/Shanghai'"))[line:]
    model, _ = scripted_model(tokenizer, lambda prompt: script)
    with model, serving(model) as served:
        chat = ChatOpenAI(
            base_url=f"{served.url}/v1", api_key=SecretStr("none"), model="default", max_retries=0
        )
        answer = chat.bind_tools(TOOLS, tool_choice="get_time").invoke(QUESTION)
        assert [call["name"] for call in answer.tool_calls] == ["get_time"]
        assert answer.tool_calls[0]["args"] == ARGUMENTS["get_time"]
