"""Putting a model of the torch runtime into this machine's memory."""

from __future__ import annotations

import logging
import os

import psutil
import torch
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.quantization import TABLE_SCHEME

from glm_core import DeviceError, OutOfMemoryError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

from ._attention import NativeDecodeAttention
from ._native import Native, found, native
from ._processor import usable_cores
from ._replacement import use_kernels, use_layers
from ._torch_layers import TorchLayers

CPU = torch.device("cpu")
_log = logging.getLogger("glm")


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
    """Quantise into the stored form; ``None`` for a model of another runtime.

    A row per scale or group-wise, as the scheme says. Placing the model gives the layers the form that
    the chosen kernels compute with.
    """
    if not isinstance(model, TorchModel):
        return None
    model.quantize(scheme, embeddings=TABLE_SCHEME)
    return model


def chosen_library(kernels: str) -> Native | None:
    """Return the library for ``--kernels``; ``None`` where torch's own kernels are used.

    The instruction level that is named, or else the fastest, holds for all models of the process.

    Raises:
        DeviceError: ``native`` was asked for, and there is none; or the processor lacks the level.
    """
    if kernels == "torch":
        return None
    library = native()
    if library is None and kernels != "auto":
        raise DeviceError(f"--kernels {kernels}: {found().message}. Use --kernels torch.")
    if library is None:
        _log.warning("%s", found().message)
    else:
        library.level = library.levels[0] if kernels in ("auto", "native") else kernels
    return library


def place_on_cpu(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read what is not in memory yet and start the engine; ``None`` for a model of another runtime.

    Raises:
        OutOfMemoryError: the weights are larger than the memory that is available.
        DeviceError: ``--kernels native``, and the library was not built.
    """
    if not isinstance(model, TorchModel):
        return None
    library = chosen_library(placement.kernels)
    needed, available = model.weight_bytes(unread_only=True), psutil.virtual_memory().available
    if needed > available:
        raise OutOfMemoryError(
            f"{model.info.name} needs {needed / 1e9:.1f} GB for its weights, {available / 1e9:.1f} GB of "
            "memory are free. Add --quantize int8 or int4, or close other programs."
        )
    set_threads(model.weight_bytes())
    if library is not None and not model.is_borrowed:
        model.materialize(CPU, ())
        use_kernels(model.network, library, model.dtype, read=lambda modules: model.materialize(CPU, modules))
    model.materialize(CPU)
    if library is None and not model.is_borrowed:
        use_layers(model.network, TorchLayers(model.dtype))
    free = psutil.virtual_memory().available
    model.start(
        CPU,
        slots=placement.slots or 0,
        context_length=placement.context_length or 0,
        kv_memory_bytes=placement.kv_memory_bytes or int(KV_SHARE * free),
        attention=None if library is None else NativeDecodeAttention(library),
    )
    return model


def set_threads(weight_bytes: int) -> None:
    """Let torch and the kernel library use as many threads as suit the weights, or ``OMP_NUM_THREADS``."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_threads(weight_bytes))
    library = native()
    if library is not None:
        library.threads = torch.get_num_threads()
