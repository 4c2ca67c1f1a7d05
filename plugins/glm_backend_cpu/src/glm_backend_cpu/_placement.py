"""Putting a model of the torch runtime into this machine's memory."""

from __future__ import annotations

import logging
import os

import psutil
import torch
from glm_runtime_torch.backends import KernelSet, TorchModel, place_in_host_memory

from glm_core import DeviceError
from glm_core.records import LoadedModel, Placement

from ._kernel_set import NativeKernels
from ._native import find_native, get_native
from ._processor import count_usable_cores
from ._torch_layers import TorchKernels

_log = logging.getLogger("glm")

# A model gets a thread for each of these. Less work than that for a thread, and waiting for the others costs
# more than it saves as soon as the machine does anything else (benchmarks/threads_cpu_2026-11-22.md).
BYTES_PER_THREAD = 16 * 2**20


def place_on_cpu(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read what is not in memory yet and start the engine; ``None`` for a model of another runtime.

    Raises:
        OutOfMemoryError: the weights are larger than the memory that is available.
        DeviceError: ``--kernels`` asks for the library, and it was not built.
    """
    if not isinstance(model, TorchModel):
        return None
    kernels = choose_kernels(placement.kernels, model.dtype)
    # Before the weights are read: packing them uses the threads as well.
    set_threads(model.count_weight_bytes())
    return place_in_host_memory(model, placement, kernels, lambda: psutil.virtual_memory().available)


def choose_kernels(wanted: str, dtype: torch.dtype) -> KernelSet:
    """Return the kernels for ``--kernels``: the library where there is one, else torch's own.

    The instruction level that is named, or else the fastest, holds for all models of the process.

    Raises:
        DeviceError: the library was asked for, and there is none; or the processor lacks the level.
    """
    library = None if wanted == "torch" else get_native()
    if library is not None:
        library.level = library.levels[0] if wanted in ("auto", "native") else wanted
        return NativeKernels(library, dtype)
    if wanted not in ("auto", "torch"):
        raise DeviceError(f"--kernels {wanted}: {find_native().message}. Use --kernels torch.")
    if wanted == "auto":
        _log.warning("%s", find_native().message)
    return TorchKernels(dtype)


def choose_num_threads(weight_bytes: int) -> int:
    """Return how many threads decode a model fastest: one for every `BYTES_PER_THREAD` of its weights.

    At most one per core. Threads wait for one another after every operation. Where another program runs on
    one of the cores, each of these waits lasts until the scheduler takes that program off.
    """
    return max(1, min(count_usable_cores(), weight_bytes // BYTES_PER_THREAD))


def set_threads(weight_bytes: int) -> None:
    """Let torch and the kernel library use as many threads as suit the weights, or ``OMP_NUM_THREADS``."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(choose_num_threads(weight_bytes))
    library = get_native()
    if library is not None:
        library.threads = torch.get_num_threads()
