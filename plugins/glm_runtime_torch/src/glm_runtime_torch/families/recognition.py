"""Which family a model is of, told from its ``config.json`` alone and without torch.

Core asks for this before it decides anything, so every command pays for what is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from glm_core.records import ModelMatch, ModelSource

from ..checkpoints.config_file import read_json

KIND = "torch"
"""The kind of all models of this runtime, which backends name in their descriptions."""

CHATGLM3_LENGTHS = (8192, 131072)  # ChatGLM2 has 32,768; so has ChatGLM3-6B-32K, which has its name
GLM4_VOCABULARY = 151552
NATIVE_FAMILIES = ("glm", "glm4", "glm4_moe")
"""Families that transformers defines: GLM-4-9B-hf, GLM-Edge; GLM-4-0414, GLM-Z1; GLM-4.5 to 4.7."""

_OBJECTS = "glm_runtime_torch.huggingface.modeling"  # of which a model in memory may be


def identify(source: ModelSource) -> ModelMatch | None:
    """Return what a source is, or ``None`` if this runtime does not know it.

    Raises:
        CheckpointError: ``config.json`` is damaged.
    """
    if source.model is not None:
        module = sys.modules.get(_OBJECTS)  # who has such an object has imported its class
        if module is None or not isinstance(source.model, module.ChatGLMForConditionalGeneration):
            return None
        return ModelMatch(KIND, f"a {type(source.model).__name__} in memory")
    if source.path is None or not (source.path / "config.json").is_file():
        return None
    family = family_name(read_json(source.path / "config.json"))
    return None if family is None else ModelMatch(KIND, f"config.json is of the family {family}")


def family_name(config: Mapping[str, Any]) -> str | None:
    """Return the name of the family of a ``config.json``, or ``None`` if it is none of ours."""
    return next((name for name, recognises in _FAMILIES.items() if recognises(config)), None)


def _is_chatglm_v1(config: Mapping[str, Any]) -> bool:
    # ChatGLM2 and 3 have the same model_type; only v1 has 2D positions and "inner_hidden_size".
    return config.get("model_type") == "chatglm" and "inner_hidden_size" in config


def _is_later_chatglm(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "chatglm" and "multi_query_group_num" in config


def _is_glm4(config: Mapping[str, Any]) -> bool:
    # GLM-4-9B as first published: ChatGLM3's network with a larger vocabulary
    return _is_later_chatglm(config) and config.get("padded_vocab_size") == GLM4_VOCABULARY


def _is_chatglm3(config: Mapping[str, Any]) -> bool:
    """Tell ChatGLM3 from 2, whose configurations have the same keys and whose vocabularies are the same file.

    The name that the publishers wrote decides; a renamed copy is told by the sequence length.
    """
    name = str(config.get("_name_or_path", "")).lower()
    if not _is_later_chatglm(config) or "chatglm2" in name or "codegeex2" in name:
        return False
    return "chatglm3" in name or config.get("seq_length") in CHATGLM3_LENGTHS


def _has_model_type(model_type: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: config.get("model_type") == model_type


_FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "chatglm": _is_chatglm_v1,
    "glm4-9b": _is_glm4,
    "chatglm3": _is_chatglm3,
    "chatglm2": _is_later_chatglm,
    **{name: _has_model_type(name) for name in NATIVE_FAMILIES},
}
"""Each family and how it is recognised; the first that fits is taken."""
