"""Telling whether two checkpoints are the same model, whatever their form.

No weight quantisation touches biases and norms, and every published form of a model holds the same ones. So a
model and its int4 copy have one fingerprint, and a fine-tuned model has another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..checkpoints.reader import Checkpoint


def fingerprint_vectors(vectors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of a model's biases and norms, rounded to float16 and taken in the order of their names.

    Args:
        vectors: names and one-dimensional tensors.
    """
    digest = hashlib.sha256()
    for name, vector in sorted(vectors, key=lambda pair: pair[0]):
        values = vector.detach().to("cpu", torch.float32).to(torch.float16).contiguous()
        digest.update(f"{name}:{len(values)}\n".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def fingerprint_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the fingerprint of a checkpoint's files; a few megabytes are read."""
    names = [
        name for name in checkpoint if _is_of_the_model(name) and len(checkpoint.get_facts(name).shape) == 1
    ]
    cpu = torch.device("cpu")
    return fingerprint_vectors(
        (name, checkpoint.read(name, dtype=torch.float32, device=cpu)) for name in names
    )


def fingerprint_parameters(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return the fingerprint of a model in memory, from its parameters under their stored names."""
    return fingerprint_vectors(
        (name, value) for name, value in parameters if _is_of_the_model(name) and value.dim() == 1
    )


def _is_of_the_model(name: str) -> bool:
    """Return whether a stored vector belongs to the model proper: no scale, buffer or prefix."""
    # ".SCB" are the scales of bitsandbytes
    return not name.endswith(("_scale", ".SCB", "inv_freq")) and "prefix_encoder." not in name
