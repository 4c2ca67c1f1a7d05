"""Writes a checkpoint directory of the published ChatGLM-6B layout, one whole file at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.architectures.chatglm import ChatGLM
from safetensors.torch import load_file, save_file

TOKENIZER_CONFIG = {
    "name_or_path": "glm-demo",
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "num_image_tokens": 0,
}


def write_model(model: ChatGLM, directory: Path) -> None:
    """Write the configurations and ``model.safetensors`` (float16, the head not repeated)."""
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    temporary = directory / "model.safetensors.part"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    os.replace(temporary, directory / "model.safetensors")
    config = model.config
    # So few parameters answer best without sampling.
    generation = {"do_sample": False, "max_length": config.max_sequence_length}
    _write_json(directory / "generation_config.json", generation)
    _write_json(
        directory / "config.json",
        {
            "architectures": ["ChatGLMModel"],
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "gmask_token_id": config.gmask_token_id,
            "hidden_size": config.hidden_size,
            "inner_hidden_size": config.inner_hidden_size,
            "layernorm_epsilon": config.layernorm_epsilon,
            "mask_token_id": config.mask_token_id,
            "max_sequence_length": config.max_sequence_length,
            "model_type": "chatglm",
            "num_attention_heads": config.num_heads,
            "num_layers": config.num_layers,
            "pad_token_id": config.pad_token_id,
            "position_encoding_2d": config.position_encoding_2d,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": config.vocab_size,
        },
    )


def read_weights(model: ChatGLM, directory: Path) -> None:
    """Fill ``model`` with the weights of a directory that `write_model` wrote."""
    weights = {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["transformer.word_embeddings.weight"]
    model.load_state_dict(weights)


def write_tokenizer_config(directory: Path) -> None:
    """Write ``tokenizer_config.json``."""
    _write_json(directory / "tokenizer_config.json", TOKENIZER_CONFIG)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
