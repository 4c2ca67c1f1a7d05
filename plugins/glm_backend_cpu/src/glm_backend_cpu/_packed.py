"""A matrix in the layout of the kernel library: packing it, multiplying with it, looking up its rows.

Axes: M rows of activations.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import torch
from torch import Tensor, nn

from glm_core import OutOfMemoryError

from ._native import Native, NativeMatrix

INT4, INT8, BFLOAT16, FLOAT16, FLOAT32 = range(5)
DENSE_FORMATS = {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float32: FLOAT32}
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
NO_ACTIVATION, GELU_TANH = 0, 1

ROWS, COLUMNS = 16, 32  # as in kernels.h: a block has 16 rows; inputs are padded to a multiple of 32
ALIGNMENT = 64  # bytes of a cache line, and of the widest vector that the kernels load
HUGE_PAGE = 2 * 2**20  # of Linux on x86-64 and arm64


class PackedMatrix:
    """Weights, scales and bias in one block of memory, and the C structure that points into it.

    Args:
        native: the library.
        memory: uint8, from `pack_quantized` or `pack_dense`.
        layout: from the same call.
    """

    def __init__(self, native: Native, memory: Tensor, layout: PackedLayout) -> None:
        self.layout = layout
        self.out_features, self.in_features = layout.out_features, layout.in_features
        self._native, self._linear = native, native.linear
        self._memory = memory  # the structure holds only its address, so the memory must not be freed
        self.parameter = nn.Parameter(memory, requires_grad=False)  # so that a module's bytes are counted
        self._structure = layout.make_structure(memory.data_ptr())
        self._address = ctypes.addressof(self._structure)

    def __deepcopy__(self, memo: dict[int, object]) -> PackedMatrix:
        """Return the same object: it never changes, and a copy would still point into this memory."""
        return self

    def multiply(self, x: Tensor, act_group: int = 0, activation: int = NO_ACTIVATION) -> Tensor:
        """Multiply ``[..., in]`` with the matrix's transpose and add the bias.

        The result of a row does not depend on the other rows.

        Args:
            x: float32, bfloat16 or float16.
            act_group: how many inputs share a scale when activations are quantised to int8: a
                multiple of 32 that divides the weights' group; 0 leaves them as they are.
            activation: what is applied to the result: `NO_ACTIVATION` or `GELU_TANH`.

        Returns:
            ``[..., out]`` in the dtype of ``x``.

        Raises:
            ValueError: the last axis has another length.
            OutOfMemoryError: there is no room for the prepared activations.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"inputs have {x.shape[-1]} channels, the matrix takes {self.in_features}")
        width = self.in_features
        if (
            x.is_contiguous()
        ):  # the usual case: no view has to be made, which costs as much as a small product
            rows, count, stride = x, x.numel() // width, width
        else:
            rows = x.reshape(-1, width)
            rows = rows if rows.stride(1) == 1 else rows.contiguous()
            count, stride = rows.shape[0], rows.stride(0)
        y = torch.empty((*x.shape[:-1], self.out_features), dtype=x.dtype)
        failed = self._linear(
            self._address,
            rows.data_ptr(),
            stride,
            y.data_ptr(),
            self.out_features,
            count,
            DTYPES[x.dtype],
            act_group,
            activation,
        )
        if failed:
            raise OutOfMemoryError(f"there is no memory left for the activations of {count} tokens.")
        return y

    def look_up(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up rows of the matrix by ids ``[...]`` (int64) and return them dequantised, ``[..., in]``.

        Raises:
            IndexError: there is no such row.
        """
        flat = ids.reshape(-1).contiguous()
        if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= self.out_features):
            raise IndexError(f"row ids must lie between 0 and {self.out_features - 1}")
        y = torch.empty((*ids.shape, self.in_features), dtype=dtype)
        self._native.embed(self._address, flat.data_ptr(), flat.numel(), y.data_ptr(), DTYPES[dtype])
        return y

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the whole matrix ``[out, in]`` as floating-point numbers."""
        return self.look_up(torch.arange(self.out_features), dtype)

    def get_bias(self) -> Tensor | None:
        """Return the bias ``[out]`` in float32; ``None`` where there is none."""
        if not self.layout.has_bias:
            return None
        start = self.layout.bias_offset
        return self._memory[start : start + 4 * self.out_features].view(torch.float32)


class PackedLayout:
    """Where the parts of a packed matrix stand in its memory.

    Args:
        native: the library.
        out_features: rows.
        in_features: columns.
        number: the library's number of the format.
        group_size: inputs that share a scale; 0 = one scale a row.
        scale_dtype: of group-wise scales; scales of rows are float32.
        bias: whether there is one.
    """

    def __init__(
        self,
        native: Native,
        out_features: int,
        in_features: int,
        number: int,
        *,
        group_size: int = 0,
        scale_dtype: torch.dtype = torch.float32,
        bias: bool = False,
    ) -> None:
        self.out_features, self.in_features = out_features, in_features
        self.format, self.group_size, self.scale_dtype, self.has_bias = number, group_size, scale_dtype, bias
        self.padded_out = -(-out_features // ROWS) * ROWS
        self.weight_bytes: int = native.packed_bytes(number, out_features, in_features)
        self.has_scale = number in (INT4, INT8)
        groups = in_features // group_size if group_size else 1
        scale_bytes = self.padded_out * groups * scale_dtype.itemsize if self.has_scale else 0
        self.bias_offset = -(-(self.weight_bytes + scale_bytes) // ALIGNMENT) * ALIGNMENT
        self.total_bytes = self.bias_offset + (4 * self.padded_out if bias else 0)

    def make_structure(self, base: int) -> NativeMatrix:
        """Return the C structure for memory that begins at ``base``."""
        return NativeMatrix(
            weight=base,
            scale=base + self.weight_bytes if self.has_scale else None,
            bias=base + self.bias_offset if self.has_bias else None,
            out_features=self.out_features,
            in_features=self.in_features,
            padded_in=-(-self.in_features // COLUMNS) * COLUMNS,
            format=self.format,
            group_size=self.group_size,
            scale_type=DTYPES[self.scale_dtype],
        )


def pack_quantized(
    native: Native, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int
) -> tuple[Tensor, PackedLayout]:
    """Pack stored integers; scales of groups are kept in 16 bits where that is exact.

    Args:
        native: the library.
        stored: int8 ``[out, in]``, or ``[out, in / 2]`` with the even column in the high nibble.
        scale: ``[out]``, or ``[out, in / group_size]``.
        bias: ``[out]`` or ``None``.
        bits: 8 or 4.
        group_size: a multiple of 32, or 0.

    Returns:
        The memory (uint8) and its layout.
    """
    in_features = stored.shape[1] * (2 if bits == 4 else 1)
    dtype = _choose_scale_dtype(scale) if group_size else torch.float32
    layout = PackedLayout(
        native,
        stored.shape[0],
        in_features,
        INT4 if bits == 4 else INT8,
        group_size=group_size,
        scale_dtype=dtype,
        bias=bias is not None,
    )
    memory = _pack(native, stored, bias, layout)
    padded = torch.zeros(layout.padded_out, *scale.shape[1:], dtype=dtype)
    padded[: layout.out_features] = scale
    if group_size:
        padded = padded.unflatten(0, (-1, ROWS)).transpose(1, 2).contiguous()  # [blocks, groups, 16]
    _write_bytes(memory, layout.weight_bytes, padded)
    return memory, layout


def pack_dense(native: Native, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, PackedLayout]:
    """Pack a matrix ``[out, in]`` of float32, bfloat16 or float16; see `pack_quantized`."""
    out_features, in_features = weight.shape
    number = DENSE_FORMATS[weight.dtype]
    layout = PackedLayout(native, out_features, in_features, number, bias=bias is not None)
    return _pack(native, weight, bias, layout), layout


def reserve(size: int) -> Tensor:
    """Return memory of ``size`` bytes, in huge pages where the system has them and it fills at least two.

    Decoding walks through all weights at every step; with pages of 4 KiB much of that time would go into
    looking up addresses.

    Raises:
        OutOfMemoryError: the system refuses.
    """
    if size < 2 * HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    try:
        # Private: memory that could be shared between processes gets no huge pages on most systems.
        mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise OutOfMemoryError(f"there is no memory left for {size / 1e9:.2f} GB of weights.") from error
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE
    # Only whole huge pages are asked for: the rest would take one more for a few bytes.
    mapping.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE_PAGE * HUGE_PAGE)
    return whole[start:][:size]


def _pack(native: Native, stored: Tensor, bias: Tensor | None, layout: PackedLayout) -> Tensor:
    memory = reserve(layout.total_bytes)
    stored = stored.detach()
    rows = stored if stored.stride(1) == 1 else stored.contiguous()
    native.pack(
        layout.format,
        rows.data_ptr(),
        rows.stride(0) * rows.element_size(),
        layout.out_features,
        layout.in_features,
        memory.data_ptr(),
    )
    if bias is not None:
        padded = torch.zeros(layout.padded_out)
        padded[: layout.out_features] = bias.detach()
        _write_bytes(memory, layout.bias_offset, padded)
    return memory


def _write_bytes(memory: Tensor, offset: int, value: Tensor) -> None:
    flat: Any = value.flatten().view(torch.uint8)
    memory[offset : offset + flat.numel()] = flat


def _choose_scale_dtype(scale: Tensor) -> torch.dtype:
    exact = scale.float()
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(exact.to(dtype).float(), exact):
            return dtype
    return torch.float32
