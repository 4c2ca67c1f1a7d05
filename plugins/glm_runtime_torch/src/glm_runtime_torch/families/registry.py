"""The model families that this runtime knows, and what it needs to know of each.

A new family is one module in ``architectures``, a tokenizer, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from glm_core import Sampling

from ..architectures import chatglm, chatglm2
from ..network.language_model import Dimensions
from ..network.prefix_encoder import PrefixEncoder
from ..tokenizers import ChatTokenizer
from ..tokenizers.chatglm import ChatGLMTokenizer
from ..tokenizers.chatglm2 import ChatGLM2Tokenizer
from ..tokenizers.chatglm3 import ChatGLM3Tokenizer
from ..tokenizers.glm4_9b import GLM4Tokenizer


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: for reports and error messages.
        recognises: whether a ``config.json`` is of this family.
        read_config: the family's configuration from a ``config.json``.
        build: the network of a configuration, tied where the family is; what a checkpoint holds
            beyond its parameters (a copy of a tied head, rotary buffers) is not read.
        dimensions: a configuration's sizes and end token.
        tokenizer: reads the tokenizer of a checkpoint directory.
        build_prefix_encoder: ``(config, pre_seq_len, prefix_projection)`` to an empty encoder.
        sampling: the original's defaults.
    """

    name: str
    recognises: Callable[[Mapping[str, Any]], bool]
    read_config: Callable[[Mapping[str, Any]], Any]
    build: Callable[[Any], nn.Module]
    dimensions: Callable[[Any], Dimensions]
    tokenizer: Callable[[Path], ChatTokenizer]
    build_prefix_encoder: Callable[[Any, int, bool], PrefixEncoder]
    sampling: Sampling


def _is_chatglm_v1(config: Mapping[str, Any]) -> bool:
    # ChatGLM2 and 3 have the same model_type; only v1 has 2D positions and "inner_hidden_size".
    return config.get("model_type") == "chatglm" and "inner_hidden_size" in config


# The original's slider goes to twice the length that the model was trained with.
CHATGLM_LENGTH_FACTOR = 2


def _chatglm_dimensions(config: chatglm.ChatGLMConfig) -> Dimensions:
    return Dimensions(
        num_layers=config.num_layers,
        num_kv_heads=config.num_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=CHATGLM_LENGTH_FACTOR * config.max_sequence_length,
        eos_token_id=config.eos_token_id,
    )


CHATGLM = Family(
    name="chatglm",
    recognises=_is_chatglm_v1,
    read_config=chatglm.ChatGLMConfig.from_checkpoint,
    build=chatglm.ChatGLM,
    dimensions=_chatglm_dimensions,
    tokenizer=ChatGLMTokenizer,
    build_prefix_encoder=chatglm.build_prefix_encoder,
    sampling=Sampling(
        max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True
    ),
)


def _is_chatglm2_or_3(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "chatglm" and "multi_query_group_num" in config


def _is_chatglm3(config: Mapping[str, Any]) -> bool:
    """Tell the two apart, whose configurations have the same keys and whose vocabularies are the same file.

    The name that the publishers wrote decides; a renamed copy is told by the sequence length.
    """
    name = str(config.get("_name_or_path", "")).lower()
    if "chatglm2" in name or "codegeex2" in name:
        return False
    return "chatglm3" in name or config.get("seq_length") in CHATGLM3_LENGTHS


CHATGLM3_LENGTHS = (8192, 131072)  # ChatGLM2 has 32,768; so has ChatGLM3-6B-32K, which has its name


def _chatglm2_dimensions(config: chatglm2.ChatGLM2Config) -> Dimensions:
    return Dimensions(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=config.max_sequence_length,
        eos_token_id=config.eos_token_id,
    )


CHATGLM2 = Family(
    name="chatglm2",
    recognises=lambda config: _is_chatglm2_or_3(config) and not _is_chatglm3(config),
    read_config=partial(chatglm2.ChatGLM2Config.from_checkpoint, interpolates=True),
    build=chatglm2.ChatGLM2,
    dimensions=_chatglm2_dimensions,
    tokenizer=ChatGLM2Tokenizer,
    build_prefix_encoder=chatglm2.build_prefix_encoder,
    sampling=Sampling(
        max_length=8192, temperature=0.8, top_p=0.8, top_k=50, repetition_penalty=1.0, do_sample=True
    ),
)

CHATGLM3 = replace(
    CHATGLM2,
    name="chatglm3",
    recognises=lambda config: _is_chatglm2_or_3(config) and _is_chatglm3(config),
    read_config=chatglm2.ChatGLM2Config.from_checkpoint,
    tokenizer=ChatGLM3Tokenizer,
)

GLM4_VOCABULARY = 151552


def _is_glm4(config: Mapping[str, Any]) -> bool:
    return _is_chatglm2_or_3(config) and config.get("padded_vocab_size") == GLM4_VOCABULARY


# GLM-4-9B as first published: ChatGLM3's network with a larger vocabulary
GLM4 = replace(CHATGLM3, name="glm4-9b", recognises=_is_glm4, tokenizer=GLM4Tokenizer)


def _native(model_type: str) -> Family:
    """A family that transformers defines; its modules are imported when a model of it is opened."""

    def module() -> Any:
        from ..architectures import native  # imports transformers

        return native

    def tokenizer(directory: Path) -> ChatTokenizer:
        from ..tokenizers.native import NativeTokenizer  # imports transformers

        return NativeTokenizer(directory)

    return Family(
        name=model_type,
        recognises=lambda config: config.get("model_type") == model_type,
        read_config=lambda config: module().read_config(config),
        build=lambda config: module().NativeModel(config),
        dimensions=lambda config: module().dimensions(config),
        tokenizer=tokenizer,
        build_prefix_encoder=lambda *arguments: module().build_prefix_encoder(*arguments),
        sampling=Sampling(
            max_length=8192, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0, do_sample=True
        ),
    )


# GLM-4-9B-hf, GLM-Edge; GLM-4-0414, GLM-Z1; GLM-4.5 to 4.7
NATIVE = tuple(_native(model_type) for model_type in ("glm", "glm4", "glm4_moe"))

FAMILIES: tuple[Family, ...] = (CHATGLM, GLM4, CHATGLM2, CHATGLM3, *NATIVE)


def family_of(config: Mapping[str, Any], families: Iterable[Family] = FAMILIES) -> Family | None:
    """The family of a ``config.json``, or ``None`` if it is none of ours."""
    return next((family for family in families if family.recognises(config)), None)
