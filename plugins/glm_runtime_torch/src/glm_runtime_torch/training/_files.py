"""A tuned model's own directory, written so that it loads by itself, and read to go on training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from glm_hub.model_files import CONFIG, SAFETENSORS
from torch import Tensor

from ..checkpoints.companions import copy_companions
from ..checkpoints.foreign_formats import KEYS as FORMAT_KEYS
from ..checkpoints.json_file import read_json
from ..checkpoints.reader import Checkpoint
from ..checkpoints.writer import write_tensors, write_text
from ..families.recognition import record_family


def write_model(directory: Path, parameters: Iterable[tuple[str, Tensor]], source: Path, family: str) -> None:
    """Write a model's directory: weights in float32, and what belongs to them.

    Args:
        directory: exists; files of these names in it are replaced.
        parameters: float32, by the names that the family's checkpoints have.
        source: the directory that the model was loaded from: its configuration, tokenizer, template and so on
            are copied; see `glm_hub.model_files`.
        family: what the model was taken for, for the copy to say where its files do not tell.

    Raises:
        CheckpointError: a file of the source is damaged.
        OSError: a file cannot be read or written.
    """
    write_tensors(directory / SAFETENSORS.single, dict(parameters))
    copy_companions(source, directory)
    # What is written is plain numbers, whatever format the source had.
    config = {key: value for key, value in read_json(source / CONFIG).items() if key not in FORMAT_KEYS}
    # Both spellings that transformers has had: a loader must not take the weights for half precision.
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = "float32"
    config.setdefault("dtype" if "dtype" in config else "torch_dtype", "float32")
    record_family(config, directory, family)
    write_text(directory / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def read_parameters(directory: Path, parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Fill parameters with the values that `write_model` wrote.

    Raises:
        CheckpointError: the directory holds no weights, or damaged ones.
    """
    stored = Checkpoint(directory)
    with torch.no_grad():
        for name, value in parameters:
            value.copy_(stored.read(name, dtype=value.dtype, device=value.device))
