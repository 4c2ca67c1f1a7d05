"""Reading matrices that other programs store as int8 or float8 with scales: a number times its scale.

What is read so:

- float8 with one scale per matrix, row or block (``weight_scale``, ``weight_scale_inv``), as transformers'
  ``fp8`` and ``fbgemm_fp8``, compressed-tensors and ModelOpt store it;
- int8 with one scale per matrix, row or group (``weight_scale``), symmetric, as compressed-tensors stores it
  (W8A8, W8A16), and our own form where ``config.json`` does not say so;
- bitsandbytes' int8 (``SCB``).

Products are float32. What such formats say about activations (static scales, thresholds) is left out, because
activations are not quantised here, which is nearer to the original than what the format's own program does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from glm_hub.checksums import check_sizes

from glm_core.errors import CheckpointError

from .foreign_formats import (
    CONVERTIBLE,
    StatedFormat,
    name_format,
    read_stated_format,
    refuse_format,
)
from .reader import Checkpoint
from .stored_scale import PLAIN_DTYPES, StoredScale

FLOAT8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
# The variants "fnuz" are left out: their programs store a scale of another meaning beside them.

WEIGHT = ".weight"
SCALES = ("weight_scale", "weight_scale_inv", "SCB")
BITSANDBYTES_SCALE = 1 / 127  # SCB is the largest magnitude of a row, which the integer 127 stands for

# What may stand beside such a matrix. All else could change what the integers mean, so it is refused.
_NETWORK_PARTS = ("bias", "e_score_correction_bias")
_HARMLESS = ("input_scale", "input_zero_point", "output_scale", "activation_scale", "act_scale")
_ZERO_POINT = "weight_zero_point"
_LAYOUT = "weight_format"  # bitsandbytes: 0 = row after row, everything else is for one sort of GPU
_ATTENTION_SCALES = (
    "k_scale",
    "v_scale",
    "q_scale",
    "prob_scale",
)  # of a quantised KV cache, which is not ours


_log = logging.getLogger("glm")


def open_model_weights(directory: Path, config: Mapping[str, Any]) -> Checkpoint:
    """Open the weights of a model, in our own formats or in one that converts exactly.

    Args:
        directory: of the checkpoint.
        config: content of its ``config.json``.

    Raises:
        CheckpointError: files are missing or damaged, or the format cannot be read.
    """
    check_sizes(directory)  # before anything is opened: a file that was cut off may look like anything
    checkpoint = Checkpoint(directory)
    message = decode_foreign_weights(checkpoint, config)
    if message:
        _log.warning("%s", message)
    return checkpoint


def decode_foreign_weights(checkpoint: Checkpoint, config: Mapping[str, Any]) -> str:
    """Let a checkpoint of another program's format be read as the weights that it means; refuse all others.

    Args:
        checkpoint: just opened; its matrices with scales are read as float32 from here on, and their
            scales are no tensors of it any more.
        config: content of ``config.json``.

    Returns:
        A sentence for the user about what was done; empty if there was nothing to do.

    Raises:
        CheckpointError: the format is not ours and does not convert exactly; says which it is.
    """
    directory = checkpoint.directory
    stated = read_stated_format(directory, config)
    if config.get("quantization_bit"):
        if stated is not None:
            raise CheckpointError(
                f"{directory / 'config.json'} has quantization_bit, which is our format, and {stated.key}, "
                f"which says {stated.name}; delete the one that is not true of the weights"
            )
        return ""  # `Checkpoint.require` compares dtypes and shapes with what quantization_bit says
    reason = "" if stated is None else f"{stated.key} in config.json"
    if stated is not None and stated.method not in CONVERTIBLE:
        raise refuse_format(directory, stated.name, reason)
    scaled = [name for name in checkpoint if name.endswith(WEIGHT) and not _is_plain(checkpoint, name)]
    found = name_format(checkpoint)
    if found is not None and found not in ("fp8", "bitsandbytes 8-bit"):
        raise refuse_format(directory, found, reason or "its tensors are named so")
    if stated is not None and stated.settings.get("transform_config"):
        raise refuse_format(directory, f"{stated.name} with transforms of the activations", reason)
    beside = _group_by_module(checkpoint, scaled)
    scales = {name: _find_scale(checkpoint, name, beside[name], stated) for name in scaled}
    if not scales:
        return ""  # every matrix is plain: the entry speaks of activations or of the KV cache only
    companions = {other for name in scaled for other in _list_companions(checkpoint, name)}
    checkpoint.decode(scales, companions)
    dtype = str(checkpoint.get_stored_dtype(scaled[0])).removeprefix("torch.")
    origin = f"as {stated.name}" if stated is not None else "although config.json does not say so"
    return (
        f"{directory.name}: {len(scaled)} matrices are stored in {dtype} with scales, {origin}; they become "
        "floating-point numbers while they are read. --quantize int8 keeps them small in memory."
    )


def _is_plain(checkpoint: Checkpoint, name: str) -> bool:
    return checkpoint.get_facts(name).dtype in PLAIN_DTYPES


def _find_scale(
    checkpoint: Checkpoint, name: str, beside: Sequence[str], stated: StatedFormat | None
) -> StoredScale:
    """Return the scale of a matrix that does not hold floating-point numbers.

    Raises:
        CheckpointError: there is none, or it does not say unambiguously what the matrix means.
    """
    directory, facts = checkpoint.directory, checkpoint.get_facts(name)
    label = "an unknown format" if stated is None else stated.name
    dtype = str(facts.dtype).removeprefix("torch.")
    module = name.removesuffix(WEIGHT)
    if facts.dtype != torch.int8 and facts.dtype not in FLOAT8_DTYPES:
        raise refuse_format(directory, label, f"{name} holds {dtype} numbers")
    present = [f"{module}.{suffix}" for suffix in SCALES if f"{module}.{suffix}" in checkpoint]
    if len(present) != 1 or len(facts.shape) != 2:
        what = " and ".join(present) if present else "no scales"
        raise refuse_format(directory, label, f"{name} holds {dtype} numbers with {what} beside it")
    (scale,) = present
    _check_companions(checkpoint, name, scale, beside, label)
    if not _is_plain(checkpoint, scale):
        kind = str(checkpoint.get_facts(scale).dtype).removeprefix("torch.")
        raise refuse_format(directory, label, f"{scale} holds {kind} numbers")
    shape = checkpoint.get_facts(scale).shape
    sizes = _divide(facts.shape, shape, stated)
    if sizes is None or (scale.endswith(".SCB") and shape != facts.shape[:1]):
        raise CheckpointError(
            f"{directory}: {scale} has shape {list(shape)}, which is no scale per matrix, row or block of "
            f"{name} with shape {list(facts.shape)}; take the float16 or bfloat16 original."
        )
    factor = BITSANDBYTES_SCALE if scale.endswith(".SCB") else 1.0
    rows, columns = sizes
    return StoredScale(
        scale, (-(-facts.shape[0] // rows), -(-facts.shape[1] // columns)), rows, columns, factor
    )


def _divide(
    matrix: tuple[int, ...], scales: tuple[int, ...], stated: StatedFormat | None
) -> tuple[int, int] | None:
    """Return how many rows and columns of a matrix share a scale; ``None`` where the shapes do not tell."""
    out_features, in_features = matrix
    if scales in ((), (1,), (1, 1)):
        return out_features, in_features
    if scales in ((out_features,), (out_features, 1)):
        return 1, in_features
    if len(scales) != 2 or 0 in scales:
        return None
    # Stated blocks come first, because a small matrix may have as many scales as rows by chance.
    block = _read_block_size(stated)
    if block is not None and scales == (-(-out_features // block[0]), -(-in_features // block[1])):
        return block
    if scales[0] == out_features and in_features % scales[1] == 0:
        return 1, in_features // scales[1]
    return None


def _read_block_size(stated: StatedFormat | None) -> tuple[int, int] | None:
    """Return rows and columns of a block as fp8 (``weight_block_size``) or compressed-tensors state them."""
    if stated is None:
        return None
    found = [stated.settings.get("weight_block_size")]
    groups = stated.settings.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        found.append(weights.get("block_structure") if isinstance(weights, Mapping) else None)
    for value in found:
        if isinstance(value, list) and len(value) == 2:
            rows, columns = value
            if type(rows) is int and type(columns) is int and rows > 0 and columns > 0:
                return rows, columns
    return None


def _group_by_module(names: Iterable[str], matrices: Sequence[str]) -> dict[str, list[str]]:
    """Return for each matrix the tensors of its module, itself included."""
    groups: dict[str, list[str]] = {name: [] for name in matrices}
    for name in names:
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if (matrix := f"{parent}{WEIGHT}") in groups:
                groups[matrix].append(name)
    return groups


def _list_companions(checkpoint: Checkpoint, name: str) -> list[str]:
    """Return the tensors that belong to a matrix and mean nothing to anybody else."""
    module = name.removesuffix(WEIGHT)
    beside = (*SCALES, *_HARMLESS, _ZERO_POINT, _LAYOUT)
    return [other for suffix in beside if (other := f"{module}.{suffix}") in checkpoint]


def _check_companions(
    checkpoint: Checkpoint, name: str, scale: str, beside: Sequence[str], label: str
) -> None:
    """Refuse a matrix that has something beside it which may change what its numbers mean."""
    module = name.removesuffix(WEIGHT)
    known = {
        name,
        scale,
        *(f"{module}.{suffix}" for suffix in (*_NETWORK_PARTS, *_HARMLESS, *_ATTENTION_SCALES)),
    }
    for suffix in (_ZERO_POINT, _LAYOUT):
        other = f"{module}.{suffix}"
        if other not in checkpoint:
            continue
        if checkpoint.read(other, dtype=torch.float32, device=torch.device("cpu")).any():
            what = "zero points" if suffix == _ZERO_POINT else "an order of rows made for one sort of GPU"
            raise refuse_format(checkpoint.directory, label, f"{other} holds {what}")
        known.add(other)
    strange = [other for other in beside if other not in known]
    if strange:
        raise refuse_format(checkpoint.directory, label, f"{strange[0]} stands beside {name}")
