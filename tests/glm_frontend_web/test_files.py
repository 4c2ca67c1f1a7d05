"""Conversations as text and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from glm_frontend_web._conversation import Conversation, Settings, Turn
from glm_frontend_web._files import MAX_BYTES, from_bytes, to_json, to_markdown
from glm_frontend_web._texts import SAY
from hypothesis import given
from hypothesis import strategies as st

from glm_core import ConfigError

EN = SAY["en"]
SETTINGS = Settings("Be brief -->.", "law", 512, 0.5, 0.25)
# What cleaning leaves as it is.
TEXTS = st.text(
    st.characters(
        exclude_categories=("Cs", "Cc"),
        exclude_characters="\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    )
    | st.sampled_from("\n\n\t#`\\"),
    min_size=1,
)
QUESTIONS = TEXTS.filter(str.strip)


@pytest.mark.parametrize(
    "write", [to_json, lambda *all_three: to_markdown(*all_three, EN)], ids=["json", "markdown"]
)
@given(turns=st.lists(st.builds(Turn, QUESTIONS, TEXTS), max_size=3))
def test_every_conversation_comes_back_as_it_was(write: Any, turns: Any) -> None:
    """Writing and reading is the identity, whatever was said."""
    text = write(Conversation(turns), SETTINGS, "m")
    conversation, settings, lost = from_bytes(text.encode(), ("law",), EN)
    assert conversation.turns == turns
    assert settings == SETTINGS
    assert lost == ""


def test_marks_in_a_message_are_no_marks() -> None:
    """A message that looks like a heading of the format, also one with backslashes, stays a message."""
    tricky = "x\n## User <!-- glm:user -->\n\\## Model <!-- glm:assistant -->\n\\\\## A <!-- glm:system -->\n"
    turns = [Turn(tricky, tricky), Turn("## User <!-- glm:user -->", "")]
    text = to_markdown(Conversation(turns), Settings(), "m", EN)
    assert from_bytes(text.encode(), (), EN)[0].turns == turns


def test_markdown_can_be_read_by_people_in_their_language() -> None:
    """Headings are in the language of the page; a file of one language is read in the other."""
    text = to_markdown(Conversation([Turn("你好", "您好")]), Settings(), "demo", SAY["zh"])
    assert text.startswith("# 与 demo 的对话\n")
    assert "## 用户 <!-- glm:user -->\n\n你好\n" in text
    assert from_bytes(text.encode(), (), EN)[0].turns == [Turn("你好", "您好")]


def test_a_file_of_the_terminal_chat_is_understood() -> None:
    """A system message, further settings, a lost adapter and an unanswered question do no harm."""
    document = {
        "version": 1,
        "adapter": "gone",
        "settings": {"top_k": 5, "temperature": 0.5},
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q\x1b[31m"},
            {"role": "assistant", "content": "A"},
            {"role": "user", "content": "unanswered"},
        ],
    }
    conversation, settings, lost = from_bytes(json.dumps(document).encode("utf-8-sig"), ("law",), EN)
    assert conversation.turns == [Turn("Q[31m", "A")]
    assert (settings.system, settings.adapter, settings.temperature, lost) == ("S", None, 0.5, "gone")


def document(**changes: Any) -> bytes:
    """A document that would be right but for the changes."""
    return json.dumps({"version": 1, "messages": []} | changes).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * (MAX_BYTES + 1), "larger than 10 MB"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "no conversation"),
        (b"# Notes\n\nhello", "only Markdown that was exported here"),
        (document(version=2), "format version 2; this program reads version 1"),
        (document(system=1), "system must be text"),
        (document(messages={}), "messages must be a list"),
        (document(messages=["x"]), "message 1 must have a role"),
        (document(messages=[{"role": "user", "content": 5}]), "message 1 must have a role"),
        (document(messages=[{"role": "robot", "content": "x"}]), "message 1 must have a role"),
        (document(messages=[{"role": "tool", "content": "x"}]), "message 1 must have a role"),
        (document(messages=[{"role": "assistant", "content": None}]), "message 1 must have a role"),
        (
            document(messages=[{"role": "assistant", "content": "x"}]),
            r"message 1 \(assistant\) is out of turn",
        ),
        (
            document(messages=[{"role": "user", "content": " "}]),
            r"message 1 \(user\) is out of turn or empty",
        ),
        (document(settings=[1]), "the settings cannot be used"),
        (document(settings={"temperature": "hot"}), "the settings cannot be used"),
        (document(settings={"top_p": 7}), "the settings cannot be used: top_p"),
        (document(settings={"max_length": "x"}), "the settings cannot be used"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(data: Any, said: str) -> None:
    """Each fault has its own message."""
    with pytest.raises(ConfigError, match=said):
        from_bytes(data, (), EN)
