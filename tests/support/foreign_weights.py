"""Checkpoints as other programs quantise them: what they store, what config.json says, what it means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FLOAT8_MAX = 448.0
BLOCK = (16, 8)  # rows and columns; neither divides every matrix of the tiny models


@dataclass(frozen=True)
class Encoding:
    """One way to store a matrix.

    Attributes:
        encode: from a float32 matrix to the tensors stored for it by the end of their names, and the float32
            matrix that these mean.
        config: what ``config.json`` says.
    """

    encode: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
    config: Mapping[str, Any]


def encode_float8_rows(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A scale per row in bfloat16, as compressed-tensors stores it."""
    scale = (weight.abs().amax(dim=1, keepdim=True) / FLOAT8_MAX).clamp(min=1e-9).bfloat16()
    stored = (weight / scale.float()).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale": scale}, stored.float() * scale.float()


def encode_float8_matrix(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """One scale, with the scale of the activations beside it, as ModelOpt stores it."""
    scale = weight.abs().max() / FLOAT8_MAX
    stored = (weight / scale).to(torch.float8_e4m3fn)
    tensors = {"weight": stored, "weight_scale": scale, "input_scale": torch.tensor(0.25)}
    return tensors, stored.float() * scale


def encode_float8_blocks(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A scale per block of rows and columns, as DeepSeek and transformers store it."""
    rows, columns = BLOCK
    out_features, in_features = weight.shape
    scale = torch.empty(-(-out_features // rows), -(-in_features // columns))
    expanded = torch.empty_like(weight)
    for top in range(scale.shape[0]):
        for left in range(scale.shape[1]):
            place = slice(top * rows, (top + 1) * rows), slice(left * columns, (left + 1) * columns)
            scale[top, left] = weight[place].abs().max().clamp(min=1e-9) / FLOAT8_MAX
            expanded[place] = scale[top, left]
    stored = (weight / expanded).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale_inv": scale}, stored.float() * expanded


def encode_int8_rows(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A scale per row and zero points of zero, as compressed-tensors stores W8A8."""
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-9)
    stored = (weight / scale).round().to(torch.int8)
    tensors = {"weight": stored, "weight_scale": scale, "weight_zero_point": torch.zeros_like(scale).char()}
    return tensors, stored.float() * scale


def encode_int8_groups(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A scale for each 8 inputs of a row."""
    groups = weight.reshape(weight.shape[0], -1, 8)
    scale = (groups.abs().amax(dim=2) / 127).clamp(min=1e-9)
    stored = (groups / scale.unsqueeze(2)).round()
    tensors = {"weight": stored.flatten(1).to(torch.int8), "weight_scale": scale}
    return tensors, (stored * scale.unsqueeze(2)).flatten(1)


def encode_bitsandbytes(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The largest magnitude of each row, as bitsandbytes stores 8 bits."""
    largest = weight.abs().amax(dim=1).clamp(min=1e-9)
    stored = (weight * (127 / largest).unsqueeze(1)).round().to(torch.int8)
    tensors = {"weight": stored, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return tensors, stored.float() * (largest / 127).unsqueeze(1)


def encode_our_rows(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Our own int8, a scale per row in float16."""
    scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-7).half()
    stored = (weight / scale.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
    return {"weight": stored, "weight_scale": scale}, stored.float() * scale.float().unsqueeze(1)


def state_compressed(weights: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What compressed-tensors writes into config.json."""
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": None}
    content = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    return {"quantization_config": {**content, **more}}


ENCODINGS: dict[str, Encoding] = {
    "compressed-tensors float8": Encoding(
        encode_float8_rows, state_compressed({"num_bits": 8, "type": "float", "strategy": "channel"})
    ),
    "compressed-tensors int8": Encoding(
        encode_int8_rows,
        state_compressed({"num_bits": 8, "type": "int", "strategy": "channel"}, format="int-quantized"),
    ),
    "compressed-tensors int8 groups": Encoding(
        encode_int8_groups, state_compressed({"num_bits": 8, "type": "int", "strategy": "group"})
    ),
    "fp8 blocks": Encoding(
        encode_float8_blocks,
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(BLOCK)}},
    ),
    "fbgemm": Encoding(encode_float8_rows, {"quantization_config": {"quant_method": "fbgemm_fp8"}}),
    "modelopt": Encoding(
        encode_float8_matrix, {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    ),
    "bitsandbytes": Encoding(
        encode_bitsandbytes, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    ),
    "bitsandbytes, not stated": Encoding(encode_bitsandbytes, {}),
    "ours, not stated": Encoding(encode_our_rows, {}),
    "float8, not stated": Encoding(encode_float8_rows, {}),
}


def is_block_matrix(name: str, value: Tensor) -> bool:
    """Whether other programs would quantise it: a matrix inside the blocks."""
    return ".layers." in name and name.endswith(".weight") and value.dim() == 2


def write_encoded(source: Path, target: Path, encoding: Encoding) -> dict[str, Tensor]:
    """Write a copy of a float checkpoint in an encoding; return the weights that it means, in float32."""
    shutil.copytree(source, target)
    meant: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, value in load_file(source / "model.safetensors").items():
        if not is_block_matrix(name, value):
            meant[name] = value.float()
            state[name] = value
            continue
        stored, meant[name] = encoding.encode(value.float())
        state |= {f"{name.removesuffix('weight')}{end}": part.contiguous() for end, part in stored.items()}
    save_file(state, target / "model.safetensors")
    add_to_config(target, encoding.config)
    return meant


def add_to_config(directory: Path, entries: Mapping[str, Any]) -> None:
    """Add keys to a ``config.json``."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | dict(entries)), "utf-8")
