"""Telling whether two checkpoints are the same model, whatever their form.

No weight quantisation touches biases and norms, and every published form of a model holds the same ones. So a
model and its int4 copy agree in these, and a model whose every weight was tuned does not. What changes
matrices alone, such as a LoRA that was merged into them, only rows of the matrices tell, and only where both
sides have them as numbers: a fingerprint has a second part for these, which a quantised model lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..checkpoints.reader import Checkpoint


_PLAIN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_ROWS = 4  # of a matrix: whatever is merged into one changes nearly all of its rows
_SEPARATOR = "+"


def is_same_base(one: str, other: str) -> bool | None:
    """Return whether two fingerprints are of one model; ``None`` if one of them says nothing of matrices.

    Fingerprints of before matrices were looked at have the first part only.
    """
    vectors, _, matrices = one.partition(_SEPARATOR)
    other_vectors, _, other_matrices = other.partition(_SEPARATOR)
    if vectors != other_vectors:
        return False
    return matrices == other_matrices if matrices and other_matrices else None


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
    vectors = fingerprint_vectors(
        (name, checkpoint.read(name, dtype=torch.float32, device=cpu)) for name in names
    )
    matrices = _fingerprint_matrices(checkpoint)
    return f"{vectors}{_SEPARATOR}{matrices}" if matrices else vectors


def _fingerprint_matrices(checkpoint: Checkpoint) -> str:
    """Return a hash of some rows of every matrix; empty if one of them is stored quantised."""
    names = [
        name for name in checkpoint if _is_of_the_model(name) and len(checkpoint.get_facts(name).shape) > 1
    ]
    if not all(checkpoint.get_stored_dtype(name) in _PLAIN_DTYPES for name in names):
        return ""
    samples: set[bytes] = set()  # because a table that is the head as well is stored once or twice
    for name in names:
        rows = checkpoint.get_facts(name).shape[0]
        chosen = torch.linspace(0, max(rows - 1, 0), min(rows, _ROWS)).long()
        values = checkpoint.read_rows(name, chosen).to(torch.float32).to(torch.float16).contiguous()
        samples.add(hashlib.sha256(values.view(torch.uint8).numpy().data).digest())
    return hashlib.sha256(b"".join(sorted(samples))).hexdigest()[:16]


def fingerprint_parameters(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return the fingerprint of a model in memory, from its parameters under their stored names.

    It says nothing of matrices, since those in memory may be quantised.
    """
    return fingerprint_vectors(
        (name, value) for name, value in parameters if _is_of_the_model(name) and value.dim() == 1
    )


def _is_of_the_model(name: str) -> bool:
    """Return whether a stored vector belongs to the model proper: no scale, buffer or prefix."""
    # ".SCB" are the scales of bitsandbytes
    return not name.endswith(("_scale", ".SCB", "inv_freq")) and "prefix_encoder." not in name
