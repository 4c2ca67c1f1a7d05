"""Reading P-Tuning v2 prefixes: the original's prefix-only checkpoints.

A directory holds ``model.safetensors`` or ``pytorch_model.bin`` with the prefix encoder's tensors
under the names that the original trainer gave them. All settings are read off the shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_core.errors import AdapterError, CheckpointError

from .checkpoints.reader import Checkpoint
from .families import Family
from .prefix_encoder import PrefixEncoder

PREFIX_NAMES = ("transformer.prefix_encoder.", "prefix_encoder.", "")


def load_prefix_encoder(directory: Path, family: Family, config: Any) -> PrefixEncoder:
    """The prefix encoder of an adapter directory, in float32 on the CPU.

    Raises:
        AdapterError: the directory is missing or damaged, or the adapter is of another model.
    """
    if not directory.is_dir():
        raise AdapterError(f"adapter directory {directory} does not exist; pass --adapter NAME=DIRECTORY")
    try:
        checkpoint = Checkpoint(directory)
    except CheckpointError as error:
        raise AdapterError(f"adapter: {error}") from error
    encoder = prefix_encoder_in(checkpoint, family, config)
    if encoder is None:
        raise AdapterError(
            f"{directory} holds no prefix encoder (no tensor transformer.prefix_encoder.embedding.weight); "
            "pass the directory that P-Tuning v2 training wrote"
        )
    return encoder


def prefix_encoder_in(checkpoint: Checkpoint, family: Family, config: Any) -> PrefixEncoder | None:
    """The prefix encoder stored in a checkpoint, or ``None`` if it has none."""
    start = _start_of_names(checkpoint)
    if start is None:
        return None
    names = [name for name in checkpoint if name.startswith((f"{start}embedding.", f"{start}trans."))]
    projection = any(name.startswith(f"{start}trans.") for name in names)
    pre_seq_len = checkpoint.facts(f"{start}embedding.weight").shape[0]
    encoder = family.build_prefix_encoder(config, pre_seq_len, projection)
    state: dict[str, Tensor] = {}
    for name, parameter in encoder.state_dict().items():
        stored = f"{start}{name}"
        found = checkpoint.facts(stored).shape if stored in checkpoint else None
        if found != tuple(parameter.shape):
            raise AdapterError(
                f"{checkpoint.directory}: {name} has shape {list(found or ())}, this {family.name} model "
                f"needs {list(parameter.shape)}; the adapter was trained on another model"
            )
        state[name] = checkpoint.read(stored, dtype=torch.float32, device=torch.device("cpu"))
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def _start_of_names(names: Iterable[str]) -> str | None:
    known = set(names)
    return next((start for start in PREFIX_NAMES if f"{start}embedding.weight" in known), None)
