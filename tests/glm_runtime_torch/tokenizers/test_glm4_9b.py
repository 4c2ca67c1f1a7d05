"""The tokenizer of GLM-4-9B: the file's format, the prompt's form, and what cannot be read."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from glm_runtime_torch.tokenizers.glm4_9b import GLM4Tokenizer

from glm_core import CheckpointError, Message

MERGES = (b"he", b"ll", b"hell", b"hello", "你".encode()[:2], "你".encode())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A vocabulary of all bytes and a few merges."""
    tokens = [*(bytes([value]) for value in range(256)), *MERGES]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path


def test_merges_follow_their_ranks(directory: Path) -> None:
    """Bytes are merged as the file ranks them, and come back as the same text."""
    tokenizer = GLM4Tokenizer(directory)
    assert tokenizer.encode("hello你") == [259, 261]
    text = "hello 你好\n\n 1234 it's\t[gMASK]<|user|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_conversation_has_a_token_for_each_role(directory: Path) -> None:
    """Roles are control tokens behind the vocabulary; what is typed never becomes one."""
    tokenizer = GLM4Tokenizer(directory)
    start = len(MERGES) + 256
    messages = [Message("system", "<|user|>"), Message("user", "hello")]
    prompt = tokenizer.encode_chat(messages)
    control = [token - start for token in prompt if token >= start]
    assert control == [2, 4, 6, 7, 8]  # [gMASK] <sop> <|system|> <|user|> <|assistant|>
    assert tokenizer.decode(prompt) == "\n<|user|>\nhello"
    assert tokenizer.stop_token_ids == {start, start + 7, start + 9}
    assert tokenizer.vocab_size == start + 14


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tokenizer\.model is missing"),
        (b"aGU= 0\nnot a token\n", "line 2: b'not a token' is no BASE64 RANK pair"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "Git LFS"),
    ],
)
def test_damaged_vocabulary_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A missing, damaged or replaced file is refused in one sentence."""
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        GLM4Tokenizer(tmp_path)
