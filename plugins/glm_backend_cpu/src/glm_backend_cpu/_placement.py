"""Putting a model of the torch runtime into this machine's memory."""

from __future__ import annotations

import os

import psutil
import torch
from glm_runtime_torch.model import TorchModel

from glm_core import OutOfMemoryError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

from ._processor import usable_cores

CPU = torch.device("cpu")


# Models smaller than two of these are fast enough on one thread, whatever else the machine does
# (benchmarks/threads_cpu_2026-11-22.md).
BYTES_PER_THREAD = 16 * 2**20


# Of the memory that is free once the weights are there; what is not written takes none.
KV_SHARE = 0.5


def num_threads(weight_bytes: int) -> int:
    """How many threads decode a model fastest: one for every `BYTES_PER_THREAD` of its weights.

    At most one per core. Threads wait for one another after every operation; where another
    program has one of the cores, each wait of a small operation costs a slice of the scheduler.
    """
    return max(1, min(usable_cores(), weight_bytes // BYTES_PER_THREAD))


def quantize_on_cpu(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise with one scale per row; ``None`` for a model of another runtime."""
    if not isinstance(model, TorchModel):
        return None
    model.quantize(scheme.bits)
    return model


def place_on_cpu(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read what is not in memory yet and start the engine; ``None`` for a model of another runtime.

    Raises:
        OutOfMemoryError: the weights are larger than the memory that is available.
    """
    if not isinstance(model, TorchModel):
        return None
    needed, available = model.weight_bytes(unread_only=True), psutil.virtual_memory().available
    if needed > available:
        raise OutOfMemoryError(
            f"{model.info.name} needs {needed / 1e9:.1f} GB for its weights, {available / 1e9:.1f} GB of "
            "memory are free. Add --quantize int8 or int4, or close other programs."
        )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_threads(model.weight_bytes()))
    model.materialize(CPU)
    free = psutil.virtual_memory().available
    model.start(
        CPU,
        slots=placement.slots,
        context_length=placement.context_length,
        kv_memory_bytes=placement.kv_memory_bytes or int(KV_SHARE * free),
    )
    return model
