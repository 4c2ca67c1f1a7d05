"""Memory that is not resident before it is needed, and no longer than it is."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

# What one page table spans: 2 MiB with pages of 4 KiB. With one byte of a file that it holds already, Linux
# brings in 64 KiB around it, or as much as it holds as one piece (a large folio), and never more than this.
WINDOW_BYTES = mmap.PAGESIZE * mmap.PAGESIZE // 8


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


def find_mapping(tensor: Tensor) -> tuple[int, int]:
    """Return the first address of the file mapping that a tensor lies on, and the one behind its last.

    On ordinary memory there is none: ``(0, 0)``. Where the system does not tell (it is not Linux), the whole
    pages within the tensor, which the caller says is mapped.
    """
    address, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    for line in lines:  # 7f12-7f98 r--p 00000000 08:01 1234 /the/file
        span, _, _, _, inode, *_ = line.split()
        first, last = (int(part, 16) for part in span.split("-"))
        if first <= address < last:
            return (first, last) if inode != "0" and end <= last else (0, 0)
    return 0, 0


def release_pages(mapped: Tensor, mapping: tuple[int, int]) -> None:
    """Tell the kernel that the pages under a tensor, and what came with them, are not needed now.

    They are read from the file again if they are.

    Args:
        mapped: contiguous, never written to.
        mapping: the private file mapping that it lies on, see `find_mapping`. On other memory this would
            erase what is there.
    """
    advise = _find_madvise()
    # Outwards, to whole windows: the first byte that is read of a piece brings in pages around it, among them
    # some of the piece before it, which were given back already. A gigabyte in pieces of a megabyte kept up
    # to 70 MB of such pages, depending on how the file lay in memory.
    start = max(mapped.data_ptr() // WINDOW_BYTES * WINDOW_BYTES, mapping[0])
    end = min(-(-(mapped.data_ptr() + mapped.nbytes) // WINDOW_BYTES) * WINDOW_BYTES, mapping[1])
    if advise is not None and end > start:
        advise(start, end - start, mmap.MADV_DONTNEED)


@functools.cache
def _find_madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform == "win32":
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function
