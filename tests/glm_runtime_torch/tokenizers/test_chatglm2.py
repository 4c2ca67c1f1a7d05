"""The tokenizers of ChatGLM2 and ChatGLM3 against the originals, on the published vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from glm_runtime_torch.tokenizers.chatglm2 import ChatGLM2Tokenizer, format_chat
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from goldens import DATA, fixtures_or_skip

from glm_core import CheckpointError, Message
from glm_core.records import build_messages

CLASSES = {"chatglm2-6b": ChatGLM2Tokenizer, "chatglm3-6b": ChatGLM3Tokenizer}
GOLDENS: dict[str, dict[str, Any]] = {
    family: json.loads((DATA / "tokenizers" / f"{family}.json").read_text("utf-8")) for family in CLASSES
}


@pytest.fixture(scope="module", params=CLASSES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str) -> ChatGLM2Tokenizer:
    return CLASSES[family](fixtures_or_skip() / "tokenizers" / "chatglm2-6b")


@pytest.fixture(scope="module")
def chatglm3() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer(fixtures_or_skip() / "tokenizers" / "chatglm2-6b")


def test_ids_and_pieces_equal_the_original(family: str, tokenizer: ChatGLM2Tokenizer) -> None:
    """All 196 golden texts have the original's ids, with and without the control tokens, and pieces."""
    texts = GOLDENS[family]["texts"]
    assert len(texts) == 196
    for golden in texts:
        assert tokenizer.encode(golden["text"]) == golden["ids"]
        assert tokenizer.encode_completion(golden["text"]) == golden["ids_with_special"]
        if golden.get("tokens") is not None:
            assert tokenizer.tokenize(golden["text"]) == golden["tokens"]


def test_pairs_and_batches_equal_the_original(family: str, tokenizer: ChatGLM2Tokenizer) -> None:
    """A prompt with its answer and an end, and left-padded prompts, have the original's ids."""
    for golden in GOLDENS[family]["pairs"]:
        ids = [*tokenizer.encode_completion(golden["text"]), *tokenizer.encode(golden["text_pair"])]
        assert [*ids, tokenizer.eos_token_id] == golden["ids"]
    for golden in GOLDENS[family]["batches"]:
        prompts = [tokenizer.encode_completion(text) for text in golden["texts"]]
        width = len(golden["input_ids"][0])
        padded = [[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompts]
        assert padded == golden["input_ids"]


def test_control_tokens_have_the_published_ids(family: str, tokenizer: ChatGLM2Tokenizer) -> None:
    """Control tokens follow the vocabulary; padding and end are the vocabulary's own."""
    golden = GOLDENS[family]["special_ids"]
    ours = {name: tokenizer.get_control_token_id(name) for name in tokenizer.control_tokens}
    assert ours == {
        name: index for name, index in golden.items() if not name.startswith(("<bos", "<eos", "<pad"))
    }
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (golden["<eos>"], golden["<pad>"])
    assert tokenizer.vocab_size == GOLDENS[family]["vocab_size"]


def test_decoding_equals_the_original_without_control_tokens(
    family: str, tokenizer: ChatGLM2Tokenizer
) -> None:
    """Texts come back; names of control tokens, which ChatGLM3's original writes out, do not appear."""
    for golden in GOLDENS[family]["texts"]:
        assert tokenizer.decode(golden["ids"]) == golden["decoded"]
        assert tokenizer.decode(golden["ids_with_special"]) == golden["decoded"]
    for golden in GOLDENS[family]["decode_ids"]:
        wanted = golden.get("decoded", "")
        for name in tokenizer.control_tokens:
            wanted = wanted.replace(name, "")
        assert tokenizer.decode(golden["ids"]).strip() == wanted.strip()


def test_typed_control_tokens_stay_text(tokenizer: ChatGLM2Tokenizer) -> None:
    """No text produces a control token: what a user types cannot end or restructure a prompt."""
    text = " ".join([*tokenizer.control_tokens, "<|user|>", "<|observation|>", "</s>", "<s>"])
    ids = tokenizer.encode_chat([Message("system", text), Message("user", text)])
    control = {tokenizer.get_control_token_id(name) for name in tokenizer.control_tokens} | {1, 2}
    assert not control & set(tokenizer.encode(text))
    ours = [token for token in ids if token in control]
    roles = [64794, 64795, 64796] if isinstance(tokenizer, ChatGLM3Tokenizer) else []
    assert ours == [64790, 64792, *roles]


def test_round_prompts_equal_the_original() -> None:
    """ChatGLM2's prompt of every golden conversation has the original's ids."""
    tokenizer = ChatGLM2Tokenizer(fixtures_or_skip() / "tokenizers" / "chatglm2-6b")
    asked = [golden for golden in GOLDENS["chatglm2-6b"]["chat"] if golden["query"]]
    assert len(asked) == 3
    for golden in asked:
        messages = build_messages(golden["history"], golden["query"])
        assert format_chat(messages) == golden["prompt"]
        assert tokenizer.encode_chat(messages) == golden["chat"]["input_ids"]


def test_role_prompts_equal_the_original(chatglm3: ChatGLM3Tokenizer) -> None:
    """ChatGLM3's prompt of the golden conversations without tools has the original's ids."""
    plain = [
        golden for golden in GOLDENS["chatglm3-6b"]["chat"] if golden["role"] == "user" and golden["query"]
    ]
    assert len(plain) == 4
    for golden in plain:
        messages = [
            *(Message(turn["role"], turn["content"]) for turn in golden["history"]),
            Message("user", golden["query"]),
        ]
        assert chatglm3.encode_chat(messages) == golden["input_ids"]
        assert chatglm3.stop_token_ids == set(golden["generate_kwargs"]["eos_token_id"])


@pytest.mark.parametrize("golden", GOLDENS["chatglm2-6b"]["process_response"])
def test_reply_clean_up_equals_the_original(golden: dict[str, str]) -> None:
    """Whole or character by character, a cleaned reply is the original's; punctuation is left alone."""
    cleaner = ChatGLM2Tokenizer.make_reply_filter
    for pieces in ([golden["input"]], list(golden["input"])):
        reply = cleaner(None)  # type: ignore[arg-type]  # needs no vocabulary
        text = "".join(reply.feed(piece) for piece in pieces) + reply.feed("", last=True)
        assert text == golden["output"]


def test_system_prompt_stands_before_round_one() -> None:
    """ChatGLM2 was trained without system messages: the text stands in front."""
    messages = [Message("system", "Be brief."), Message("user", "a"), Message("user", "b")]
    assert format_chat(messages) == "Be brief.\n\n[Round 1]\n\n问：a\nb\n\n答："


def test_missing_vocabulary_is_named(tmp_path: Path) -> None:
    """A directory without ``tokenizer.model`` is refused with the file's name."""
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is missing"):
        ChatGLM2Tokenizer(tmp_path)
