"""A tiny random network of every family, built from a configuration alone."""

from __future__ import annotations

from typing import Any

import torch
from glm_runtime_torch.families.registry import FAMILIES, Family
from glm_runtime_torch.network.language_model import LanguageModel

_CHATGLM = {
    "model_type": "chatglm",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "inner_hidden_size": 128,
    "max_sequence_length": 64,
    "mask_token_id": 80,
    "gmask_token_id": 81,
    "bos_token_id": 82,
    "eos_token_id": 83,
}
_CHATGLM2 = {
    "model_type": "chatglm",
    "padded_vocab_size": 96,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 8,
    "ffn_hidden_size": 64,
    "seq_length": 64,
    "eos_token_id": 2,
}
_NATIVE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_MIXTURE = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "chatglm": _CHATGLM,
    "chatglm2": _CHATGLM2,
    "chatglm3": _CHATGLM2,
    "glm4-9b": _CHATGLM2,
    "glm": {**_NATIVE, "model_type": "glm"},
    "glm4": {**_NATIVE, "model_type": "glm4", "tie_word_embeddings": True},
    "glm4_moe": {**_NATIVE, **_MIXTURE, "model_type": "glm4_moe"},
}
NAMES = tuple(CONFIGS)


def family_named(name: str) -> Family:
    """The family of that name."""
    return next(family for family in FAMILIES if family.name == name)


def tiny_network(name: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A random network of a family that nobody trains; the same one every time."""
    family = family_named(name)
    torch.manual_seed(7)
    network = family.build(family.read_config(CONFIGS[name]))
    return network.requires_grad_(False).eval().to(dtype)


def prompt_of(name: str) -> list[int]:
    """A prompt whose layout the family can tell."""
    return [5, 17, 9, 33, 81, 82] if name == "chatglm" else [5, 17, 9, 33]


def logits_of(network: LanguageModel, prompt: list[int]) -> torch.Tensor:
    """Logits ``[T, V]`` of a prompt, every token seeing what the layout of a whole prompt lets it see."""
    from glm_runtime_torch.network.layout import lay_out_batch

    ids = torch.tensor([prompt])
    positions, visible = lay_out_batch(network.find_layout, ids)
    with torch.inference_mode():
        logits: torch.Tensor = network(ids, positions, visible)
    return logits[0]
