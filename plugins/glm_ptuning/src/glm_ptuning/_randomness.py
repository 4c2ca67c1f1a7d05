"""Making two runs of the same steps equal bit for bit: random generators and the number of threads."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A small network's operations are over before a second thread has begun, and on a busy machine each of them
# would wait for it.
BYTES_PER_THREAD = 16 * 2**20


def choose_threads(weight_bytes: int) -> int:
    """Return how many threads train a model on the CPU: at most one a core, few for small weights."""
    if "OMP_NUM_THREADS" in os.environ:  # torchrun sets it, so that processes do not share cores
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, weight_bytes // BYTES_PER_THREAD))


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Compute with that many threads meanwhile; sums come out differently with another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_all(seed: int) -> None:
    """Seed the process's own generators. A step does not use them; what a plugin adds to one might."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the generators' states: tensors by name, and what JSON can hold."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"random.torch": torch.get_rng_state()}, {
        "python": [version, list(numbers), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }


def restore_random_state(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Restore what `get_random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensors["random.torch"])
