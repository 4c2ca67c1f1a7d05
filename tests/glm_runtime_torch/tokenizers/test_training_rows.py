"""How each family lays a conversation and its answer out to be learnt."""

from __future__ import annotations

from typing import Any

import pytest
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer
from glm_runtime_torch.tokenizers.chatglm2 import ChatGLM2Tokenizer
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from glm_runtime_torch.tokenizers.native import NativeTokenizer
from glm_runtime_torch.tokenizers.training_rows import TrainingTokenizer, join_prompt_and_answer
from tiny_models import tiny_checkpoint, tiny_checkpoint2
from tiny_native import native_checkpoint

from glm_core import Message

CONVERSATION = [Message("user", "你好"), Message("assistant", "hello"), Message("user", "how do I quantise")]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingTokenizer]:
    """One small tokenizer of each family."""
    folder = tmp_path_factory.mktemp("tokenizers")
    second = tiny_checkpoint2(folder / "second")
    return {
        "chatglm": ChatGLMTokenizer(tiny_checkpoint(folder / "first")),
        "chatglm2": ChatGLM2Tokenizer(second),
        "chatglm3": ChatGLM3Tokenizer(second),
        "native": NativeTokenizer(native_checkpoint(folder / "native")),
    }


FAMILIES = ("chatglm", "chatglm2", "chatglm3", "native")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_what_a_chat_would_send(tokenizers: dict[str, TrainingTokenizer], family: str) -> None:
    """An example begins with the ids that encode_chat gives, and ends with a token that ends answers."""
    tokenizer: Any = tokenizers[family]  # one class has what a chat and what training needs
    example = tokenizer.encode_training_row(CONVERSATION, "世界", 500, 500)
    prompt = tokenizer.encode_chat(CONVERSATION)
    assert example.token_ids[: example.prompt_length] == prompt
    assert example.token_ids[-1] in tokenizer.stop_token_ids
    learnt = example.token_ids[example.prompt_length : -1]
    assert tokenizer.decode(learnt).strip() == "世界"
    assert (example.source_cut, example.target_cut) == (False, False)


@pytest.mark.parametrize("family", ["chatglm", "chatglm3", "native"])  # ChatGLM2 has none at the end
def test_control_tokens_survive_cutting(tokenizers: dict[str, TrainingTokenizer], family: str) -> None:
    """However short the limits are, the tokens that begin an answer stay before it."""
    tokenizer = tokenizers[family]
    whole = tokenizer.encode_training_row(CONVERSATION, "世界 hello world", 500, 500)
    cut = tokenizer.encode_training_row(CONVERSATION, "世界 hello world", 6, 4)
    assert (cut.source_cut, cut.target_cut) == (True, True)
    assert cut.token_ids[cut.prompt_length - 1] == whole.token_ids[whole.prompt_length - 1]
    assert cut.prompt_length <= 7
    assert len(cut.token_ids) - cut.prompt_length <= 5
    assert (cut.source_length, cut.target_length) == (whole.source_length, whole.target_length)


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_causal_families_learn_what_follows_the_prompt(
    tokenizers: dict[str, TrainingTokenizer], family: str
) -> None:
    """Their first learnt token is the first of the answer; ChatGLM-6B learns its <sop> too."""
    example = tokenizers[family].encode_training_row(CONVERSATION, "世界", 500, 500)
    assert example.first_target == example.prompt_length
    first = tokenizers["chatglm"].encode_training_row(CONVERSATION, "世界", 500, 500)
    assert first.first_target == first.prompt_length - 1


def test_chatglm3_answers_begin_with_an_empty_line_of_metadata(
    tokenizers: dict[str, TrainingTokenizer],
) -> None:
    """What stands between role token and answer in a chat is learnt as a part of the answer."""
    tokenizer = tokenizers["chatglm3"]
    assert isinstance(tokenizer, ChatGLM3Tokenizer)
    example = tokenizer.encode_training_row(CONVERSATION, "世界", 500, 500)
    turn = tokenizer.encode_message("assistant", "世界")
    assert example.token_ids[example.prompt_length - 1 :] == [*turn, tokenizer.eos_token_id]


def test_a_limit_below_what_is_kept_leaves_that() -> None:
    """Even then the last token of the prompt is there."""
    example = join_prompt_and_answer([1, 2, 3], [4, 5], 9, 0, 1, kept_at_end=1)
    assert example.token_ids == [3, 4, 9]
