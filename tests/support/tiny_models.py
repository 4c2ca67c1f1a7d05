"""Tiny checkpoints of any form, written by the tests themselves."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import sentencepiece
import torch
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.architectures.chatglm2 import ChatGLM2, ChatGLM2Config
from glm_runtime_torch.families.registry import find_family
from glm_runtime_torch.model.directory import open_directory
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from glm_runtime_torch.tokenizers.reply_filter import ReplyFilter
from safetensors.torch import save_file

from glm_core import Message
from glm_core.records import ModelSource

DATA = Path(__file__).parent.parent / "data"
TINY_WORDS = [
    *("你好", "世界", "how", "do", "I", "quantise", "a", "model", "晚上睡不着应该怎么办"),
    *("[Round", "0]", "问：", "答：", "hello"),
]


class ScriptedTokenizer:
    """A tokenizer for networks without a vocabulary: ids are Chinese characters, prompts are given.

    Args:
        prompt: the ids that every conversation becomes.
        stop: ids that end an answer.
    """

    vocab_size = 320

    def __init__(self, prompt: Sequence[int], stop: Sequence[int] = ()) -> None:
        self.prompt = list(prompt)
        self.stop_token_ids = frozenset(stop)

    def encode(self, text: str) -> list[int]:
        """Ids of characters."""
        return [ord(character) - 0x4E00 for character in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Characters of ids."""
        return "".join(chr(0x4E00 + token) for token in token_ids)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """The given prompt, whatever is asked."""
        return list(self.prompt)

    def encode_completion(self, text: str) -> list[int]:
        """The given prompt."""
        return list(self.prompt)

    def make_reply_filter(self) -> ReplyFilter:
        """No clean-up."""
        return ReplyFilter()


def open_with_prompt(
    directory: Path,
    prompt: Sequence[int],
    stop: Sequence[int] = (),
    *,
    adapters: Mapping[str, Path] | None = None,
    dtype: torch.dtype = torch.float32,
) -> TorchModel:
    """A placed model of a checkpoint without a vocabulary; every conversation is the given prompt."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    known = find_family(config)
    assert known is not None
    family = dataclasses.replace(
        known, read_tokenizer=lambda _: ScriptedTokenizer([], [config["eos_token_id"]])
    )
    model = open_directory(ModelSource("golden", directory, adapters or {}), directory, family, dtype)
    model.tokenizer = ScriptedTokenizer(prompt, stop)
    model.materialize(torch.device("cpu"))
    model.start(torch.device("cpu"))
    return model


def train_vocabulary(directory: Path, vocab_size: int = 400) -> None:
    """Write a small ``ice_text.model`` with every special piece of v1 into a directory."""
    blanks = [f"<|blank_{count}|>" for count in range(2, 9)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TINY_WORDS * 20),
        model_writer=out,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        model_type="unigram",
        pad_id=3,
        byte_fallback=True,
        control_symbols=["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"],
        user_defined_symbols=["<n>", "<|tab|>", *blanks],
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (directory / "ice_text.model").write_bytes(out.getvalue())


def tiny_checkpoint(directory: Path, *, num_layers: int = 2, hidden_size: int = 32, **config: Any) -> Path:
    """A random v1 checkpoint with its own vocabulary: what a user's model directory looks like."""
    directory.mkdir(parents=True, exist_ok=True)
    train_vocabulary(directory)
    tokenizer = ChatGLMTokenizer(directory)
    content = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "mask_token_id": tokenizer.mask_token_id,
        "gmask_token_id": tokenizer.gmask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": hidden_size,
        "inner_hidden_size": 4 * hidden_size,
        "layernorm_epsilon": 1e-5,
        "max_sequence_length": 256,
        "num_attention_heads": 4,
        "num_layers": num_layers,
        "position_encoding_2d": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": tokenizer.vocab_size + 8,
        **config,
    }
    (directory / "config.json").write_text(json.dumps(content), "utf-8")
    torch.manual_seed(0)
    network = ChatGLM(ChatGLMConfig.from_checkpoint(content)).half()
    state = {name: value for name, value in network.state_dict().items() if name != "lm_head.weight"}
    # As initialised, a tied network repeats its last token and likes control tokens best; make the
    # blocks count for more than the residual, and control tokens unlikely.
    for name, value in state.items():
        if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            value.mul_(40)
    control = [index for index in range(tokenizer.vocab_size) if tokenizer.pieces.is_control(index)]
    state["transformer.word_embeddings.weight"][[0, *control]] = 0
    state["transformer.word_embeddings.weight"][tokenizer.vocab_size :] = 0
    save_file({name: value.contiguous() for name, value in state.items()}, directory / "model.safetensors")
    return directory


def tiny_checkpoint2(directory: Path, family: str = "chatglm3-6b", **config: Any) -> Path:
    """A random ChatGLM2 or ChatGLM3 checkpoint with its own vocabulary, in float16."""
    directory.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TINY_WORDS * 20),
        model_writer=out,
        vocab_size=400,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(out.getvalue())
    published = json.loads((DATA / "chatglm2-6b/ckpt/fp16-safetensors/config.json").read_text("utf-8"))
    tokenizer = ChatGLM3Tokenizer(directory)
    content = {
        **published,
        "_name_or_path": f"THUDM/{family}",
        "padded_vocab_size": tokenizer.vocab_size + 6,
        **config,
    }
    (directory / "config.json").write_text(json.dumps(content), "utf-8")
    torch.manual_seed(0)
    network = ChatGLM2(ChatGLM2Config.from_checkpoint(content))
    for name, value in network.state_dict().items():
        if name.endswith("weight") and value.dim() == 2:
            torch.nn.init.normal_(value, std=0.2)
    head = network.transformer.output_layer.weight.data  # control tokens are unlikely, ends too
    head[[*range(3), *range(tokenizer.pieces.get_piece_size(), len(head))]] = 0
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(state, directory / "model.safetensors")
    return directory


def finished(steps: Generator[None, None, torch.Tensor]) -> torch.Tensor:
    """Run a prefill to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast(torch.Tensor, done.value)
