"""Memory that is not resident before it is needed, and no longer than it is."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def reserve_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of zeros that on the CPU takes memory only where it is written.

    ``torch.zeros`` writes every page; pages of an anonymous mapping are zero by themselves.
    """
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.frombuffer(_map_pages(max(1, size)), dtype=dtype).view(tuple(shape))


def _map_pages(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def release_pages(mapped: Tensor) -> None:
    """Tell the kernel that the pages under a tensor are not needed now.

    They are read from the file again if they are. Only for a contiguous tensor that lies on a
    private file mapping and was never written to: on ordinary memory this would erase it.
    """
    advise = _find_madvise()
    if advise is None or mapped.numel() == 0:
        return
    start = mapped.data_ptr()
    end = start + mapped.numel() * mapped.element_size()
    first_page = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last_page = end // mmap.PAGESIZE * mmap.PAGESIZE
    if last_page > first_page:
        advise(first_page, last_page - first_page, mmap.MADV_DONTNEED)


@functools.cache
def _find_madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform == "win32":
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function
