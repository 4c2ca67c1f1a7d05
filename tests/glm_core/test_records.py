"""Tests of the records that pass between core and plugins."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest
from key_words import containing

from glm_core import (
    ChatRequest,
    ConfigError,
    Message,
    RequestError,
    Sampling,
    Usage,
    descriptions,
    jobs,
    records,
)
from glm_core.records import QuantizationScheme, build_messages

QUESTION = (Message("user", "hello"),)
RECORDS = sorted(
    {
        value
        for module in (records, descriptions, jobs)
        for value in vars(module).values()
        if inspect.isclass(value) and dataclasses.is_dataclass(value)
    },
    key=lambda record: record.__name__,
)


def test_all_records_are_under_test() -> None:
    """Twenty-seven records make the contract, and the module that plugins import offers them all."""
    assert len(RECORDS) == 27
    assert {record.__name__ for record in RECORDS} <= set(vars(records))


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_is_frozen_and_documented(record: type) -> None:
    """A record cannot be changed, and its docstring explains each of its fields."""
    assert vars(record)["__dataclass_params__"].frozen
    text = record.__doc__ or ""
    names = {field.name for field in dataclasses.fields(record)}
    documented = set(re.findall(r"^ {8}(\w+): ", text, flags=re.MULTILINE))
    assert documented == names


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("robot", "hi", "role 'robot' is unknown; expected one of system, user, assistant, tool"),
        ("user", 5, "message content must be text, got int"),
        ("user", None, "message content must be text, got NoneType"),
        (
            "user",
            "ab\ud83d",
            "message content is no valid Unicode: half a character at position 2; send UTF-8 text",
        ),
    ],
)
def test_message_refuses_what_is_no_message(role: Any, content: Any, message: str) -> None:
    """An unknown role, content that is not text, and text that no tokenizer could read are refused."""
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        Message(role, content)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be at least 1, got 0"),
        ("max_new_tokens", 1.5, "max_new_tokens must be a whole number, got 1.5"),
        ("max_new_tokens", True, "max_new_tokens must be a whole number, got True"),
        ("max_length", 0, "max_length must be at least 1, got 0"),
        ("max_length", "9", "max_length must be a whole number, got '9'"),
        ("top_k", -1, "top_k must be at least 0, got -1"),
        ("temperature", -0.1, "temperature must be 0 or more, got -0.1"),
        ("temperature", float("nan"), "temperature must be 0 or more, got nan"),
        ("temperature", float("inf"), "temperature must be 0 or more, got inf"),
        ("temperature", "hot", "temperature must be 0 or more, got 'hot'"),
        ("top_p", 1.01, "top_p must be between 0 and 1, got 1.01"),
        ("top_p", -0.01, "top_p must be between 0 and 1, got -0.01"),
        ("top_p", True, "top_p must be between 0 and 1, got True"),
        ("repetition_penalty", 0, "repetition_penalty must be more than 0, got 0"),
        ("do_sample", 1, "do_sample must be true or false, got 1"),
    ],
)
def test_sampling_refuses_values_out_of_range(field: str, value: Any, message: str) -> None:
    """Every field is checked when the record is built, and the message names field and value."""
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        Sampling(**{field: value})


def test_sampling_accepts_the_ends_of_its_ranges() -> None:
    """Values on the border are values, and integers stand for real numbers."""
    Sampling(max_new_tokens=1, max_length=1, temperature=0, top_p=0, top_k=0, repetition_penalty=0.01)
    Sampling(top_p=1)


def test_or_else_fills_what_was_left_open() -> None:
    """Own values stay, also those that count as false; ``None`` takes the default's value."""
    own = Sampling(temperature=0, do_sample=False, top_k=0)
    defaults = Sampling(temperature=0.95, top_p=0.7, top_k=50, do_sample=True)
    assert own.complete_with(defaults) == Sampling(temperature=0, top_p=0.7, top_k=0, do_sample=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": ()}, "a conversation must end with a user's message or a tool's; add the question"),
        (
            {"messages": (*QUESTION, Message("assistant", "hi"))},
            "a conversation must end with a user's message or a tool's; add the question",
        ),
        ({"messages": (Message("user", " \n"),)}, "the question is empty; type something to answer"),
        ({"messages": ("hi",)}, "messages must be Message records, got ('hi',)"),
        ({"stop": ("a", "")}, "stop must be a tuple of non-empty strings, got ('a', '')"),
        ({"stop": "end"}, "stop must be a tuple of non-empty strings, got 'end'"),
        ({"stop": (3,)}, "a stop string must be text, got int"),
        ({"seed": -1}, "seed must be at least 0 and at most 9223372036854775807, got -1"),
        ({"seed": 2**63}, f"seed must be at least 0 and at most 9223372036854775807, got {2**63}"),
        ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
    ],
)
def test_chat_request_refuses_what_cannot_be_answered(fields: dict[str, Any], message: str) -> None:
    """A request is checked when it is built, before any model is asked."""
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        ChatRequest(**{"messages": QUESTION, **fields})


def test_pairs_and_messages_give_the_same_conversation() -> None:
    """History may be the original's pairs (tuples or lists) or messages; the question comes last."""
    expected = (
        Message("system", "be brief"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
    )
    assert build_messages([("a", "b")], "c", "be brief") == expected
    assert build_messages([["a", "b"]], "c", "be brief") == expected
    assert build_messages(list(expected[1:3]), "c", "be brief") == expected
    assert build_messages(iter(expected[:3]), "c") == expected


@pytest.mark.parametrize("history", [None, [], ()])
def test_no_history_is_an_empty_one(history: Any) -> None:
    """Without history and system text the conversation is the question alone."""
    assert build_messages(history, "c", "") == (Message("user", "c"),)


@pytest.mark.parametrize("element", ["ab", ("a",), ("a", "b", "c"), {"role": "user", "content": "a"}, None])
def test_history_element_of_another_kind_is_refused(element: Any) -> None:
    """What is neither a pair nor a message is named; a string of two letters is no pair."""
    message = f"history element {element!r} is neither a (question, answer) pair nor a Message"
    with pytest.raises(RequestError, match=re.escape(message)):
        build_messages([element], "c")


def test_history_of_two_kinds_is_refused() -> None:
    """Pairs and messages in one list would make the returned history ambiguous."""
    with pytest.raises(RequestError, match=containing("mixes", "one kind")):
        build_messages([("a", "b"), Message("user", "c")], "d")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "seconds", "speed"), [(11, 2.0, 5.0), (1, 2.0, 0.0), (0, 2.0, 0.0), (5, 0.0, 0.0)]
)
def test_decode_speed_counts_the_gaps_between_tokens(tokens: int, seconds: float, speed: float) -> None:
    """The first token belongs to prefill; with fewer than two tokens there is no decode speed."""
    assert Usage(completion_tokens=tokens, decode_seconds=seconds).tokens_per_second == speed


def test_quantization_scheme_reads_as_its_option() -> None:
    """In messages a scheme is called what ``--quantize`` calls it."""
    assert str(QuantizationScheme(4)) == "int4"
    assert str(QuantizationScheme(4, 64)) == "int4-g64"
    assert QuantizationScheme.parse("int8") == QuantizationScheme(8)
    assert QuantizationScheme.parse("int4-g64") == QuantizationScheme(4, 64)
    with pytest.raises(ConfigError, match=containing("'int4 group 64'", "int4-g128")):
        QuantizationScheme.parse("int4 group 64")


def test_request_has_messages_or_a_prompt() -> None:
    """Bare text stands in place of a conversation; both together would be ambiguous."""
    assert ChatRequest(prompt="").messages == ()
    with pytest.raises(RequestError, match="messages or a prompt, not both"):
        ChatRequest((Message("user", "a"),), prompt="b")
    with pytest.raises(RequestError, match="must end with a user's message"):
        ChatRequest()


@pytest.mark.parametrize("ids", [(), (1, -1), (1, True), (1, 2.0), ("1",)])
def test_a_prompt_of_token_ids_holds_token_ids(ids: Any) -> None:
    """A prompt may be ids from 0 on; anything else in the tuple is refused, and so is an empty one."""
    assert ChatRequest(prompt=(0, 7)).prompt == (0, 7)
    with pytest.raises(RequestError, match="prompt (holds no|must hold) token ids"):
        ChatRequest(prompt=ids)
