"""Prompts that are token ids already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from glm_runtime_torch.model.torch_model import TorchModel
from key_words import containing
from tiny_models import tiny_checkpoint

from glm_core import ChatModel, ChatRequest, Message, RequestError, Sampling
from glm_core.config import Settings
from glm_core.plugins import get_default_host
from glm_core.routing import open_model

GREEDY = Sampling(do_sample=False, max_new_tokens=8)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """A tiny placed model."""
    directory = tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    with open_model(
        get_default_host(), Settings(model=str(directory), device="cpu", dtype="float32", slots=1)
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(chat_model: ChatModel) -> Any:
    """Of that model."""
    assert isinstance(chat_model.loaded, TorchModel)
    return chat_model.loaded.tokenizer


def answered(model: ChatModel, prompt: str | tuple[int, ...]) -> tuple[list[int], int]:
    """Ids of the answer, and how many the prompt had."""
    deltas = list(model.stream(ChatRequest(prompt=prompt, sampling=GREEDY)))
    usage = deltas[-1].usage
    assert usage is not None
    return [token for delta in deltas for token in delta.token_ids], usage.prompt_tokens


def test_ids_are_taken_as_they_are(chat_model: ChatModel, tokenizer: Any) -> None:
    """The ids of a text give the text's answer, and so do those of a chat; nothing is added to them."""
    ids = tuple(tokenizer.encode_completion("hello"))
    assert answered(chat_model, ids) == answered(chat_model, "hello")
    assert answered(chat_model, ids)[1] == len(ids)
    chat = tokenizer.encode_chat([Message("user", "你好")])
    answer, _ = answered(chat_model, tuple(chat))
    asked = ChatRequest(messages=(Message("user", "你好"),), sampling=GREEDY)
    assert answer == [token for delta in chat_model.stream(asked) for token in delta.token_ids]


def test_control_tokens_count_as_such(chat_model: ChatModel, tokenizer: Any) -> None:
    """An end token among the ids is fed to the model, not dropped."""
    front = tokenizer.encode("hello")
    ids = (*front, tokenizer.eos_token_id, tokenizer.gmask_token_id, tokenizer.bos_token_id)
    assert answered(chat_model, ids)[1] == len(front) + 3


def test_ids_that_are_no_prompt_are_refused(chat_model: ChatModel, tokenizer: Any) -> None:
    """Ids beyond the vocabulary, without the family's control tokens, or too many: one sentence each."""
    with pytest.raises(RequestError, match=containing("99999", "vocabulary")):
        answered(chat_model, (99999,))
    with pytest.raises(RequestError, match=containing("token ids", "no <sop>")):
        answered(chat_model, tuple(tokenizer.encode("hello")))
    with pytest.raises(RequestError, match="the prompt has 5002 tokens; "):
        answered(chat_model, (*[9] * 5000, tokenizer.gmask_token_id, tokenizer.bos_token_id))
