"""Adapters in the files of PEFT's prefix tuning, for programs that read those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.training import AdapterConfig, read_adapter, write_tensors, write_text
from torch import Tensor

from glm_core.errors import ConfigError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def export_peft(adapter: Path, destination: Path) -> None:
    """Write an adapter as PEFT's ``PREFIX_TUNING``.

    The keys and values themselves are written, ``prompt_embeddings`` ``[P, L * 2 * G * H]`` in
    float32; a projection is carried out first, because PEFT keeps none for inference either.

    Args:
        adapter: directory of an adapter, ours or the original trainer's.
        destination: directory to write; absent or empty.

    Raises:
        AdapterError: the adapter is missing or damaged, or does not say its model's sizes.
        ConfigError: the destination cannot be written or holds something.
    """
    config, encoder = read_adapter(adapter)
    table = encoder.embedding.weight
    with torch.no_grad():
        rows = table if encoder.trans is None else encoder.trans(table)
    try:
        if destination.is_dir() and any(destination.iterdir()):
            raise ConfigError(f"{destination} exists and is not empty; choose another destination")
        destination.mkdir(parents=True, exist_ok=True)
        _write(destination, config, rows.detach())
    except OSError as error:
        raise ConfigError(
            f"{destination} cannot be written: {error.strerror or error}; choose another destination"
        ) from error


def _write(destination: Path, config: AdapterConfig, rows: Tensor) -> None:
    write_tensors(destination / WEIGHTS_NAME, {"prompt_embeddings": rows.to(torch.float32)})
    write_text(
        destination / CONFIG_NAME, json.dumps(_build_config(config), indent=2, ensure_ascii=False) + "\n"
    )


def _build_config(config: AdapterConfig) -> dict[str, Any]:
    """Return the keys that PEFT reads; its ``token_dim`` is the size of one layer's keys of a position."""
    return {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base.name or None,
        "inference_mode": True,
        "num_virtual_tokens": config.pre_seq_len,
        "num_layers": config.num_layers,
        "num_attention_heads": config.num_kv_heads,
        "token_dim": config.num_kv_heads * config.head_dim,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": config.num_kv_heads * config.head_dim,
        "prefix_projection": False,
    }
