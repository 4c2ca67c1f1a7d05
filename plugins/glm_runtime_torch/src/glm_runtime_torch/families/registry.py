"""The model families that this runtime knows, and what it needs to know of each.

A new family is one module in ``architectures``, a tokenizer, one entry here and one in `recognition`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from glm_core import Sampling

from ..architectures import chatglm, chatglm2
from ..network.language_model import Dimensions, LanguageModel
from ..network.prefix_encoder import PrefixEncoder
from ..tokenizers import ChatTokenizer
from ..tokenizers.chatglm import ChatGLMTokenizer
from ..tokenizers.chatglm2 import ChatGLM2Tokenizer
from ..tokenizers.chatglm3 import ChatGLM3Tokenizer
from ..tokenizers.glm4_9b import GLM4Tokenizer
from .names import FAMILY_NAMES, NATIVE_FAMILIES
from .recognition import recognize

_log = logging.getLogger("glm")


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: for reports and error messages.
        read_config: the family's configuration from a ``config.json``.
        count_tensors: how many tensors the files of a configuration's network hold at least, found without
            building it: a file that has fewer cannot be its.
        build: makes the network of a configuration, tied where the family is; what a checkpoint holds
            beyond its parameters (a copy of a tied head, rotary buffers) is not read.
        dimensions: the sizes of a configuration's network, where there is only the configuration; a
            network has them itself.
        read_tokenizer: reads the tokenizer of a checkpoint directory.
        build_prefix_encoder: ``(config, pre_seq_len, prefix_projection)`` to an empty encoder.
        sampling: the original's defaults.
    """

    name: str
    read_config: Callable[[Mapping[str, Any]], Any]
    count_tensors: Callable[[Any], int]
    build: Callable[[Any], LanguageModel]
    read_dimensions: Callable[[Any], Dimensions]
    read_tokenizer: Callable[[Path], ChatTokenizer]
    build_prefix_encoder: Callable[[Any, int, bool], PrefixEncoder]
    sampling: Sampling


CHATGLM = Family(
    name="chatglm",
    read_config=chatglm.ChatGLMConfig.from_checkpoint,
    count_tensors=attrgetter("num_layers"),
    build=chatglm.ChatGLM,
    read_dimensions=attrgetter("dimensions"),
    read_tokenizer=ChatGLMTokenizer,
    build_prefix_encoder=chatglm.build_prefix_encoder,
    sampling=Sampling(
        max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True
    ),
)


CHATGLM2 = Family(
    name="chatglm2",
    read_config=partial(chatglm2.ChatGLM2Config.from_checkpoint, interpolates=True),
    count_tensors=attrgetter("num_layers"),
    build=chatglm2.ChatGLM2,
    read_dimensions=attrgetter("dimensions"),
    read_tokenizer=ChatGLM2Tokenizer,
    build_prefix_encoder=chatglm2.build_prefix_encoder,
    sampling=Sampling(
        max_length=8192, temperature=0.8, top_p=0.8, top_k=50, repetition_penalty=1.0, do_sample=True
    ),
)

CHATGLM3 = replace(
    CHATGLM2,
    name="chatglm3",
    read_config=chatglm2.ChatGLM2Config.from_checkpoint,
    read_tokenizer=ChatGLM3Tokenizer,
)

# GLM-4-9B as first published: ChatGLM3's network with a larger vocabulary
GLM4 = replace(CHATGLM3, name="glm4-9b", read_tokenizer=GLM4Tokenizer)


def _make_native_family(model_type: str) -> Family:
    """Return a family that transformers defines; its modules are imported when a model of it is opened."""

    def import_native() -> Any:
        from ..architectures import native  # imports transformers

        return native

    def import_config() -> Any:
        from ..architectures import native_config  # imports transformers

        return native_config

    def read_tokenizer(directory: Path) -> ChatTokenizer:
        from ..tokenizers.native import NativeTokenizer  # imports transformers

        return NativeTokenizer(directory)

    return Family(
        name=model_type,
        read_config=lambda config: import_config().read_config(config),
        count_tensors=lambda config: import_config().count_tensors(config),
        build=lambda config: import_native().NativeModel(config),
        read_dimensions=lambda config: import_native().read_dimensions(config),
        read_tokenizer=read_tokenizer,
        build_prefix_encoder=lambda *arguments: import_native().build_prefix_encoder(*arguments),
        sampling=Sampling(
            max_length=8192, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0, do_sample=True
        ),
    )


NATIVE = tuple(_make_native_family(model_type) for model_type in NATIVE_FAMILIES)

FAMILIES: tuple[Family, ...] = (CHATGLM, GLM4, CHATGLM2, CHATGLM3, *NATIVE)


assert {family.name for family in FAMILIES} == set(FAMILY_NAMES)  # which are told without importing this


def find_family(
    config: Mapping[str, Any], directory: Path | None = None, wanted: str = "auto"
) -> Family | None:
    """Return the family of a model, or ``None`` if it is none of ours; the user is told where it is a guess.

    The arguments are those of `recognize`.

    Raises:
        ConfigError: it cannot be of the wanted family.
    """
    found = recognize(config, directory, wanted)
    if found is None:
        return None
    if found.doubt:
        _log.warning("glm: %s: %s", directory or "a config.json", found.doubt)
    return next(family for family in FAMILIES if family.name == found.family)
