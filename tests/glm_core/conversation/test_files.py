"""Conversations as JSON and Markdown, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from glm_core import ConfigError, Message, Sampling, ToolCall
from glm_core.conversation import MAX_FILE_BYTES, Conversation, Turn, parse_conversation, to_json, to_markdown

Write = Callable[[Conversation], str]
FORMATS = pytest.mark.parametrize("write", [to_json, to_markdown], ids=["json", "markdown"])
STEPS = (
    Message(
        "assistant", "One moment.", (ToolCall("call-->1", "weather", '{"city": "-->"}'), ToolCall("2", "t"))
    ),
    Message("tool", "## not <!-- glm:user -->", tool_call_id="2"),
    Message("tool", "rain", tool_call_id="call-->1"),
)
FULL = Conversation(
    turns=[
        Turn("你好", "您好！\n```python\n## x <!-- glm:user -->\n```"),
        Turn("q2", ""),
        Turn("q3", "a3", STEPS),
    ],
    system="Be brief -->.\n\n## System <!-- glm:system -->",
    adapter="law",
    sampling=Sampling(temperature=0.5, do_sample=False),
    seed=7,
    unanswered="and now?",
    title="Laws\n<!-- glm-conversation {} -->",
    model="demo",
)
# What cleaning leaves as it is.
TEXTS = st.text(
    st.characters(
        exclude_categories=("Cs", "Cc"),
        exclude_characters="\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    )
    | st.sampled_from("\n\n\t#`\\"),
    min_size=1,
)
LIKE_HEADINGS = st.sampled_from(
    [
        "\n## User <!-- glm:user -->\n",
        "\n\\## A <!-- glm:tool {} -->",
        '\n## A <!-- glm:assistant {"a": 1} -->',
    ]
)
CONTENTS = st.lists(TEXTS | LIKE_HEADINGS, max_size=3).map("".join)
QUESTIONS = CONTENTS.filter(str.strip)
TURNS = st.builds(Turn, QUESTIONS, CONTENTS, st.sampled_from([(), STEPS]))


def parse(text: str | bytes, language: Any = "en") -> Conversation:
    """Read a file called ``a.file``."""
    return parse_conversation(text if isinstance(text, bytes) else text.encode(), "a.file", language)


@FORMATS
def test_everything_comes_back_as_it_was(write: Write) -> None:
    """Turns, tools, system prompt, adapter, settings, title, model and an open question survive."""
    assert parse(write(FULL)) == FULL


@FORMATS
@given(
    turns=st.lists(TURNS, max_size=3),
    system=st.just("") | QUESTIONS,
    unanswered=st.none() | QUESTIONS,
    title=TEXTS,
)
def test_every_conversation_comes_back(
    write: Write, turns: list[Turn], system: str, unanswered: str | None, title: str
) -> None:
    """Writing and reading is the identity, whatever was said."""
    conversation = Conversation(turns, system=system, unanswered=unanswered, title=title, model="m")
    assert parse(write(conversation)) == conversation


@FORMATS
def test_editors_that_change_line_ends_and_add_a_mark_do_no_harm(write: Write) -> None:
    """A file with CRLF and a byte order mark reads as before."""
    data = b"\xef\xbb\xbf" + write(FULL).replace("\n", "\r\n").encode()
    assert parse(data) == FULL


@FORMATS
def test_carriage_returns_hide_no_heading(write: Write) -> None:
    """A line that becomes a heading once its carriage return is dropped stays text."""
    tricky = Conversation([Turn("x\r\n## User <!-- glm:user -->\r\ny", "## A <!-- glm:user -->\r")])
    assert parse(write(tricky)).turns == [
        Turn("x\n## User <!-- glm:user -->\ny", "## A <!-- glm:user -->"),
    ]


def test_json_is_plain_and_has_a_version() -> None:
    """A version and messages as OpenAI has them, Chinese not escaped."""
    text = to_json(FULL)
    document = json.loads(text)
    assert document["version"] == 1
    assert document["messages"][0] == {"role": "user", "content": "你好"}
    assert "你好" in text


def test_markdown_can_be_read_by_people_in_their_language() -> None:
    """Headings are in the language asked for; a file of one language is read in the other."""
    text = to_markdown(Conversation([Turn("你好", "您好", STEPS)], system="S", model="demo"), "zh")
    assert text.startswith("# 与 demo 的对话\n")
    assert "## 系统提示 <!-- glm:system -->\n\nS\n" in text
    assert "## 用户 <!-- glm:user -->\n\n你好\n" in text
    assert "## 模型 → weather, t <!--" in text
    assert parse(text).turns == [Turn("你好", "您好", STEPS)]


def test_the_title_heads_the_markdown() -> None:
    """In one line, whatever it holds."""
    assert to_markdown(FULL).startswith("# Laws <!-- glm-conversation {} -->\n\n<!-- glm-conversation {")


def test_files_of_the_first_terminal_chat_are_read() -> None:
    """What ``/save`` wrote before the format was shared."""
    document = {
        "version": 1,
        "model": "demo",
        "system": None,
        "adapter": "law",
        "settings": {"temperature": 0.5, "do_sample": False, "seed": 7},
        "messages": [
            {"role": "user", "content": "Q\x1b[31m"},
            {"role": "assistant", "content": "A\ud800\u202e"},
        ],
    }
    assert parse(json.dumps(document)) == Conversation(
        [Turn("Q[31m", "A")],
        adapter="law",
        sampling=Sampling(temperature=0.5, do_sample=False),
        seed=7,
        model="demo",
    )


def test_markdown_of_the_first_page_is_read() -> None:
    """What the page exported before the format was shared: the system prompt stood among the facts."""
    text = (
        "# Conversation with demo\n\n"
        '<!-- glm-conversation {"version": 1, "model": "demo", "system": "S --\\u003e", "adapter": null, '
        '"settings": {"max_length": null, "top_p": 0.5, "temperature": 1.0}} -->\n\n'
        "## User <!-- glm:user -->\n\n\\## A <!-- glm:mine -->\n\n## Model <!-- glm:assistant -->\n\nA\n"
    )
    assert parse(text) == Conversation(
        [Turn("## A <!-- glm:mine -->", "A")],
        system="S -->",
        sampling=Sampling(top_p=0.5, temperature=1.0),
        model="demo",
    )


def test_leading_system_messages_are_the_system_prompt() -> None:
    """As in requests to the API; a ``system`` of the document comes first."""
    messages = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}]
    assert parse(document(messages=messages)).system == "a\n\nb"
    assert parse(document(messages=messages, system="c")).system == "c"


def test_keys_of_later_versions_are_ignored() -> None:
    """Unknown keys of the document and of messages mean nothing here."""
    messages = [{"role": "user", "content": "q", "rating": 5}]
    assert parse(document(messages=messages, colour="red")) == Conversation(unanswered="q")


def test_calls_that_nobody_answered_end_in_an_open_question() -> None:
    """The question can be asked again; half of a turn is none."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    assert parse(document(messages=messages)) == Conversation(unanswered="q")


def document(**changes: Any) -> bytes:
    """Return a document that would be right but for the changes."""
    return json.dumps({"version": 1, "messages": []} | changes).encode()


def message(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    """Return a message as in a file."""
    return {"role": role, "content": content, **more}


WRONG: list[tuple[bytes, str]] = [
    (b"x" * (MAX_FILE_BYTES + 1), "10 MB"),
    (b"ok \xff\xfe", "UTF-8.*byte 3"),
    (b"", "JSON.*line 1"),
    (b'{\n"version": 1,\n}', "JSON.*line 3"),
    (b"[" * 100_000, "JSON"),
    (b"1" * 10_000, "JSON"),
    (b"[]", "messages"),
    (b"{}", "messages"),
    (b"# Notes\n\nhello", "Markdown"),
    (b'# N\n\n<!-- glm-conversation {"a" 1} -->\n', "line 3"),
    (to_markdown(FULL).replace('{"tool_call_id"', '{"tool_call_id').encode(), "line 3[0-9]"),
    (to_markdown(Conversation([Turn("q", "a")])).replace("glm:user", "glm:assistant").encode(), "line 5"),
    (document(version=2), "version 2.*version 1"),
    (json.dumps({"messages": []}).encode(), "version None"),
    (document(title=1), "title must be text"),
    (document(system=1), "system must be text"),
    (document(adapter=[]), "adapter must be text"),
    (document(messages={}), "messages must be a list"),
    (document(messages=["x"]), "message 1.*role and content"),
    (document(messages=[message("user"), message("assistant", 5)]), "message 2.*content"),
    (document(messages=[message("robot")]), "message 1.*role"),
    (document(messages=[message("assistant")]), r"message 1 \(assistant\)"),
    (document(messages=[message("user", " ")]), r"message 1 \(user\)"),
    (document(messages=[message("user"), message("system")]), r"message 2 \(system\)"),
    (document(messages=[message("user"), message("tool", tool_call_id="c")]), r"message 2 \(tool\)"),
    (document(settings=[1]), "settings must be an object"),
    (document(settings={"speed": 1}), "settings.*'speed'"),
    (document(settings={"top_p": 7}), "settings.*top_p"),
    (document(settings={"seed": "x"}), "settings.*seed"),
]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("data", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_files_are_refused_in_one_sentence(data: bytes, words: str, language: str) -> None:
    """The sentence names the file and the line or field, in the reader's language."""
    with pytest.raises(ConfigError) as caught:
        parse(data, language)
    assert str(caught.value).startswith("a.file")
    if language == "en":
        caught.match(words)
    else:
        assert any("\u4e00" <= character <= "\u9fff" for character in str(caught.value))


@FORMATS
def test_a_file_of_the_largest_size_is_read(write: Write) -> None:
    """The bound is on bytes, and what is below it is read whole."""
    question = "x" * (MAX_FILE_BYTES - 1000)
    assert parse(write(Conversation([Turn(question, "a")]))).turns == [Turn(question, "a")]
