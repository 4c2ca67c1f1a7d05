"""The v1 tokenizer against the original's ids and texts on the published vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer, format_chat
from goldens import DATA, fixtures_or_skip
from key_words import containing

from glm_core import CheckpointError, Message
from glm_core.records import build_messages

GOLDENS: dict[str, Any] = json.loads((DATA / "tokenizers" / "chatglm-6b.json").read_text("utf-8"))
# The original's library turns these into control tokens when they are typed; ours keeps them text.
INJECTED = ("[MASK]", "<sop>", "<eop>", "<pad>", "<unk>")


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer(fixtures_or_skip() / "tokenizers" / "chatglm-6b")


def test_ids_equal_the_original_except_for_typed_control_tokens(tokenizer: ChatGLMTokenizer) -> None:
    """All golden texts without a typed control token have the original's ids; 187 of 196."""
    safe = [golden for golden in GOLDENS["texts"] if not any(name in golden["text"] for name in INJECTED)]
    assert len(safe) == 187
    assert [tokenizer.encode(golden["text"]) for golden in safe] == [golden["ids"] for golden in safe]


def test_typed_control_tokens_stay_text(tokenizer: ChatGLMTokenizer) -> None:
    """No text produces a control token: what a user types cannot end or restructure a prompt."""
    control = {index for index in range(tokenizer.vocab_size) if tokenizer.pieces.is_control(index)}
    assert tokenizer.eos_token_id in control
    for golden in GOLDENS["texts"]:
        assert not control & set(tokenizer.encode(golden["text"]))
    assert (
        tokenizer.decode(tokenizer.encode("a <eop> [gMASK] <sop> [MASK] b"))
        == "a <eop> [gMASK] <sop> [MASK] b"
    )


def test_pieces_equal_the_original(tokenizer: ChatGLMTokenizer) -> None:
    """Where the goldens list pieces, ours are the same."""
    listed = [
        golden
        for golden in GOLDENS["texts"]
        if golden.get("tokens") is not None and not any(name in golden["text"] for name in INJECTED)
    ]
    assert len(listed) > 50
    for golden in listed:
        assert tokenizer.tokenize(golden["text"]) == golden["tokens"]


def test_decoding_equals_the_original(tokenizer: ChatGLMTokenizer) -> None:
    """Golden ids decode to the original's text, special ids and broken bytes included."""
    decoded = [
        golden for golden in [*GOLDENS["texts"], *GOLDENS["decode_ids"]] if golden["decoded"] is not None
    ]
    assert len(decoded) == 196 + len(GOLDENS["decode_ids"])
    assert [tokenizer.decode(golden["ids"]) for golden in decoded] == [
        golden["decoded"] for golden in decoded
    ]


def test_decoding_ignores_ids_beyond_the_vocabulary(tokenizer: ChatGLMTokenizer) -> None:
    """The embedding has more rows than the vocabulary; such ids leave nothing behind."""
    assert tokenizer.decode([5, 74874, 130527, -1]) == "你好"


def test_chat_prompts_equal_the_original(tokenizer: ChatGLMTokenizer) -> None:
    """Prompt text and ids with and without history are the original's."""
    assert len(GOLDENS["chat"]) >= 3
    for golden in GOLDENS["chat"]:
        messages = build_messages(golden["history"], golden["query"])
        assert format_chat(messages) == golden["prompt"]
        assert tokenizer.encode_chat(messages) == golden["chat"]["input_ids"]


def test_special_ids_are_those_of_the_published_vocabulary(tokenizer: ChatGLMTokenizer) -> None:
    """Ids are found by piece name and equal the published ones."""
    expected = GOLDENS["special_ids"]
    assert tokenizer.vocab_size == GOLDENS["vocab_size"]
    assert tokenizer.gmask_token_id == expected["[gMASK]"]
    assert tokenizer.bos_token_id == expected["<sop>"]
    assert tokenizer.stop_token_ids == {expected["<eop>"]}


@pytest.mark.parametrize("golden", GOLDENS["process_response"], ids=lambda golden: golden["input"][:12])
def test_reply_clean_up_equals_the_original(tokenizer: ChatGLMTokenizer, golden: dict[str, str]) -> None:
    """The reply filter gives the original's cleaned response, whole or character by character."""
    assert tokenizer.make_reply_filter().feed(golden["input"], last=True) == golden["output"]
    streaming = tokenizer.make_reply_filter()
    pieces = [streaming.feed(character) for character in golden["input"]]
    assert "".join(pieces) + streaming.feed("", last=True) == golden["output"]


def test_system_prompt_stands_before_round_zero() -> None:
    """v1 has no system role: its text precedes the rounds, which are used even without history."""
    messages = (Message("system", "用英文回答"), Message("user", "你好"))
    assert format_chat(messages) == "用英文回答\n[Round 0]\n问：你好\n答："


def test_questions_in_a_row_become_one_question() -> None:
    """Two user messages without an answer between them are one question of two lines."""
    messages = (Message("user", "a"), Message("user", "b"))
    assert format_chat(messages) == "a\nb"
    assert format_chat((*messages, Message("assistant", "c"), Message("user", "d"))) == (
        "[Round 0]\n问：a\nb\n答：c\n[Round 1]\n问：d\n答："
    )


def test_missing_vocabulary_is_named(tmp_path: Path) -> None:
    """A directory without ice_text.model gives one sentence with the file's path."""
    with pytest.raises(CheckpointError, match=r"ice_text\.model is missing: the tokenizer's vocabulary"):
        ChatGLMTokenizer(tmp_path)


def test_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    """A file that is no SentencePiece model gives one sentence with its size."""
    (tmp_path / "ice_text.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"is no SentencePiece model \(11 bytes\)"):
        ChatGLMTokenizer(tmp_path)


def test_pointer_instead_of_vocabulary_is_recognised(tmp_path: Path) -> None:
    """A Git LFS pointer in place of the vocabulary is called by its name."""
    (tmp_path / "ice_text.model").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        ChatGLMTokenizer(tmp_path)


def test_v1_0_with_image_tokens_is_refused(tmp_path: Path) -> None:
    """ChatGLM-6B v1.0 is refused with the revision to take instead."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"num_image_tokens": 20000}))
    with pytest.raises(CheckpointError, match=containing("v1.0", "20000 image tokens", "v1.1.0")):
        ChatGLMTokenizer(tmp_path)
