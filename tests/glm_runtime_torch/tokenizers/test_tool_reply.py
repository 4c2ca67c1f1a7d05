"""Answers with tool calls from the engine: what is text, what is a call, and when either is said."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from glm_runtime_torch.tokenizers.reply_filter import ReplyFilter
from glm_runtime_torch.tokenizers.tool_reply import MAX_CALL_CHARACTERS, ToolReply
from hypothesis import given, strategies as st
from scripted_tools import TIME, WEATHER, Turn, answers_in_turn, call_turn, written_answer
from tiny_models import tiny_checkpoint2

from glm_core import ChatRequest, Delta, Message, RequestError, Sampling, ToolCall
from glm_core.chat_model import collect_message

QUESTION = (Message("user", "天气?"),)
TOOLS = (WEATHER, TIME)
BEIJING = call_turn("get_weather", "city='北京'")
NOW = call_turn("get_time", "zone='CST'")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3Tokenizer:
    """The format over a vocabulary of the test's own."""
    directory: Path = tiny_checkpoint2(tmp_path_factory.mktemp("tools"))
    return ChatGLM3Tokenizer(directory)


def ask(tokenizer: ChatGLM3Tokenizer, answer: Sequence[int], **request: Any) -> list[Delta]:
    """The deltas of one answer."""
    model, _ = answers_in_turn(tokenizer, answer)
    with model, model.stream(ChatRequest(**{"messages": QUESTION, "tools": TOOLS, **request})) as deltas:
        return list(deltas)


def said(deltas: Sequence[Delta]) -> tuple[str, list[tuple[str, str]], str | None]:
    """Text, calls and the reason of the end."""
    message, last = collect_message(deltas)
    return (
        message.content,
        [(call.name, call.arguments) for call in message.tool_calls],
        last.finish_reason,
    )


def test_call_comes_whole_and_ends_the_answer(tokenizer: ChatGLM3Tokenizer) -> None:
    """Nothing of a call is shown as text; its arguments are JSON; the answer ends with ``tool_calls``."""
    deltas = ask(tokenizer, written_answer(tokenizer, BEIJING, end="<|observation|>"))
    assert said(deltas) == ("", [("get_weather", '{"city": "北京"}')], "tool_calls")
    assert [delta for delta in deltas if delta.tool_calls] == [deltas[-1]]
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == sum(len(delta.token_ids) for delta in deltas) > 5


def test_text_streams_as_soon_as_it_is_known_to_be_text(tokenizer: ChatGLM3Tokenizer) -> None:
    """After the empty first line every piece of text is shown when it is decoded."""
    deltas = ask(tokenizer, written_answer(tokenizer, ("", "hello how do I 你好")))
    assert said(deltas) == ("hello how do I 你好", [], "stop")
    assert sum(bool(delta.text) for delta in deltas) > 3


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([("delete_all", "```python\ntool_call(a=1)\n```")], "delete_all\n ```python\ntool_call(a=1)\n```"),
        (
            [("get_weather", "```python\ntool_call(city=open('x'))\n```")],
            "get_weather\n ```python\ntool_call(city=open('x'))\n```",
        ),
        ([("get_weather", "is what I would call")], "get_weather\n is what I would call"),
        ([("get_weather", "```python\ntool_call(city='")], "get_weather\n ```python\ntool_call(city='"),
        ([("get_wea", "")], "get_wea"),
        ([("", "one"), ("", "two")], "one\ntwo"),
        ([("", "one"), ("get_time", "two")], "one\nget_time\n two"),
    ],
)
def test_what_is_no_call_is_text(tokenizer: ChatGLM3Tokenizer, turns: list[Turn], text: str) -> None:
    """Unknown tools, broken and non-literal calls come back as the model wrote them."""
    assert said(ask(tokenizer, written_answer(tokenizer, *turns))) == (text, [], "stop")


def test_one_answer_may_have_text_and_several_calls(tokenizer: ChatGLM3Tokenizer) -> None:
    """Each message of an answer is read by itself; the calls are numbered and have ids of their own."""
    answer = written_answer(tokenizer, ("", "first"), BEIJING, NOW, end="<|observation|>")
    deltas = ask(tokenizer, answer)
    assert said(deltas) == (
        "first",
        [("get_weather", '{"city": "北京"}'), ("get_time", '{"zone": "CST"}')],
        "tool_calls",
    )
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2


def test_parallel_calls_can_be_declined(tokenizer: ChatGLM3Tokenizer) -> None:
    """Without parallel calls the answer ends where the first one does."""
    answer = written_answer(tokenizer, ("", "first"), BEIJING, NOW)
    deltas = ask(tokenizer, answer, parallel_tool_calls=False)
    assert said(deltas) == ("first", [("get_weather", '{"city": "北京"}')], "tool_calls")


def test_length_cuts_a_call_into_text(tokenizer: ChatGLM3Tokenizer) -> None:
    """A call that the length limit cut is none; one that was whole by then stays one."""
    answer = written_answer(tokenizer, BEIJING, NOW)
    text, calls, reason = said(ask(tokenizer, answer, sampling=Sampling(max_new_tokens=len(answer) - 3)))
    assert (calls, reason) == ([("get_weather", '{"city": "北京"}')], "length")
    assert text.startswith("get_time\n ```python\ntool_call(")
    first = len(written_answer(tokenizer, BEIJING))  # with the token that begins the next message
    for limit in (first - 1, first):
        whole = said(ask(tokenizer, answer, sampling=Sampling(max_new_tokens=limit)))
        assert whole == ("", [("get_weather", '{"city": "北京"}')], "length")


def test_stop_string_in_a_call_cuts_it_into_text(tokenizer: ChatGLM3Tokenizer) -> None:
    """Stop strings hold for all that the model writes, also at the end of one of its messages."""
    answer = written_answer(tokenizer, BEIJING, NOW)
    assert said(ask(tokenizer, answer, stop=("city",))) == ("get_weather\n ```python\ntool_call(", [], "stop")
    assert said(ask(tokenizer, answer, stop=("```X", "python"))) == ("get_weather\n ```", [], "stop")
    both = written_answer(tokenizer, ("", "one END"), ("", "two"))
    assert said(ask(tokenizer, both, stop=("END",))) == ("one", [], "stop")
    assert said(ask(tokenizer, both, stop=("END\ntwo", "ENDtwo")))[0] == "one END\ntwo"


def test_without_tools_an_answer_is_text(tokenizer: ChatGLM3Tokenizer) -> None:
    """A model that calls although nothing was offered is shown as it wrote."""
    deltas = ask(tokenizer, written_answer(tokenizer, BEIJING), tools=())
    assert said(deltas) == ("get_weather\n ```python\ntool_call(city='北京')\n```", [], "stop")


@pytest.mark.parametrize("sampling", [Sampling(do_sample=False), Sampling(top_k=5), Sampling(top_k=0)])
@pytest.mark.parametrize("choice", ["required", "get_time"])
def test_call_can_be_required(tokenizer: ChatGLM3Tokenizer, choice: str, sampling: Sampling) -> None:
    """A model that would rather talk begins with a tool's name, whatever it is sampled with."""
    length = len(tokenizer.encode("get_time\n"))
    plain = written_answer(tokenizer, ("", "x" * 40))[:length]
    rest = [*tokenizer.encode(NOW[1]), tokenizer.get_control_token_id("<|observation|>")]
    offered = (TIME,) if choice == "required" else TOOLS
    deltas = ask(tokenizer, plain + rest, tools=offered, tool_choice=choice, sampling=sampling)
    assert said(deltas) == ("", [("get_time", '{"zone": "CST"}')], "tool_calls")


def test_required_leaves_the_choice_of_the_tool_to_the_model(tokenizer: ChatGLM3Tokenizer) -> None:
    """Among several tools the one that the model writes is called."""
    for turn in (BEIJING, NOW):
        _, calls, _ = said(ask(tokenizer, written_answer(tokenizer, turn), tool_choice="required"))
        assert [name for name, _ in calls] == [turn[0]]


def test_named_tool_is_the_only_one_that_is_called(tokenizer: ChatGLM3Tokenizer) -> None:
    """Where one tool is named, a further call of another is text."""
    deltas = ask(tokenizer, written_answer(tokenizer, NOW, BEIJING), tool_choice="get_time")
    text, calls, _ = said(deltas)
    assert (text.splitlines()[0], [name for name, _ in calls]) == ("get_weather", ["get_time"])


def test_no_call_can_be_asked_for(tokenizer: ChatGLM3Tokenizer) -> None:
    """With ``none`` the answer begins as text does, although the tools stand in the prompt as before."""
    empty = tokenizer.encode("\n")
    answer = tokenizer.encode("get_weather\n")[: len(empty)] + tokenizer.encode("hello")
    answer.append(tokenizer.eos_token_id)
    model, network = answers_in_turn(tokenizer, answer, answer)
    with model:
        request = ChatRequest(QUESTION, tools=TOOLS, tool_choice="none")
        assert said(list(model.stream(request))) == ("hello", [], "stop")
        model.reply(dataclasses.replace(request, tool_choice="auto", sampling=Sampling(max_new_tokens=1)))
    assert network.prompts[0] == network.prompts[1]
    two = written_answer(tokenizer, ("", "no"), BEIJING)
    text, calls, reason = said(ask(tokenizer, two, tool_choice="none"))
    assert (text.splitlines()[:2], calls, reason) == (["no", "get_weather"], [], "stop")


def test_trimming_keeps_calls_with_their_answers(tokenizer: ChatGLM3Tokenizer) -> None:
    """Oldest rounds go as a whole: no prompt has an answer without its call, or a call without it."""
    call = Message("assistant", "", (ToolCall("c1", "get_weather", '{"city": "x"}'),))
    round_ = (Message("user", "hello " * 60), call, Message("tool", "22 " * 60, tool_call_id="c1"))
    answer = written_answer(tokenizer, ("", "ok"))
    roles = [tokenizer.get_control_token_id(f"<|{role}|>") for role in ("user", "assistant", "observation")]
    length = len(tokenizer.encode_chat(round_, TOOLS))
    step = (len(tokenizer.encode_chat((*round_, *round_), TOOLS)) - length + 1) // 2
    model, network = answers_in_turn(tokenizer, *[answer] * 6)

    def request(max_length: int) -> ChatRequest:
        sampling = Sampling(max_length=max_length, max_new_tokens=4)
        return ChatRequest((*round_, *round_, *round_), tools=TOOLS, sampling=sampling)

    with model:
        for number in range(6):  # at each length another half of a round fits
            usage = list(model.stream(request(length + 5 + number * step)))[-1].usage
            assert usage is not None
            assert usage.dropped_messages == 6 - 3 * (number // 2)
            kept = [token for token in network.prompts[-1] if token in roles]
            assert kept == roles * (1 + number // 2) + roles[1:2]
        with pytest.raises(RequestError, match="question.*tool calls"):
            model.stream(request(length))


def reader(
    names: Sequence[str] = ("f",), parse: Any = lambda text: "{}" if text == "ok" else None
) -> ToolReply:
    """A reader for a format of two letters."""
    return ToolReply(names, parse, ReplyFilter, frozenset())


@given(
    st.text("f ok\nx", max_size=14), st.lists(st.integers(0, 14), max_size=4), st.sampled_from(["f", "fo"])
)
def test_reading_does_not_depend_on_how_the_text_arrives(text: str, cuts: list[int], name: str) -> None:
    """Cut anywhere, an answer gives the same text and the same calls."""

    def read(pieces: list[str]) -> tuple[str, list[str]]:
        reply = reader([name])
        read_ = [*(reply.feed(piece) for piece in pieces), reply.feed("", last=True)]
        return "".join(piece.text for piece in read_), [call.name for piece in read_ for call in piece.calls]

    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:stop] for start, stop in itertools.pairwise(bounds)]
    whole = read([text])
    assert read(pieces) == whole
    line, newline, rest = text.partition("\n")
    is_call = bool(newline) and line.strip() == name and rest == "ok"
    assert whole == (("", [name]) if is_call else (text.strip(), []))


def test_endless_call_is_let_go_as_text() -> None:
    """What is longer than any call is not held back any further."""
    reply = reader()
    assert reply.feed("f\n" + "x" * (MAX_CALL_CHARACTERS - 2)).text == ""
    assert len(reply.feed("x").text) == MAX_CALL_CHARACTERS + 1
    assert reply.feed("y").text == "y"
