"""Adapters that fit a given model, written by the tests themselves in the original trainer's form."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from glm_runtime_torch.model.directory import read_config, recognize_family
from safetensors.torch import save_file

STORED_NAME = "transformer.prefix_encoder.embedding.weight"


def write_adapter(directory: Path, model: Path, pre_seq_len: int = 5, seed: int = 0) -> Path:
    """Write random keys and values, large enough to change every answer, for the model in ``model``."""
    family = recognize_family(model)
    assert family is not None
    raw = json.loads((model / "config.json").read_text("utf-8"))
    sizes = family.read_dimensions(read_config(model, raw, family))
    width = sizes.num_layers * 2 * sizes.num_kv_heads * sizes.head_dim
    generator = torch.Generator().manual_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    rows = 4 * torch.randn(pre_seq_len, width, generator=generator)
    save_file({STORED_NAME: rows}, directory / "model.safetensors")
    return directory
