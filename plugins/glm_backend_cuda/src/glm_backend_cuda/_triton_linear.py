"""Triton kernels of linear layers whose weights stay integers until they are in registers.

One program computes a tile of ``BLOCK_N`` outputs for ``BLOCK_M`` rows: it walks over the inputs 128 at a
time, turns the weights' integers into floating-point numbers, which is exact, and multiplies on the tensor
cores with sums in float32. Scales are applied to these sums, of a row or of a group of inputs, so nothing
is rounded between the stored integers and the sum.

**A row's result does not depend on its batch**: up to `DECODE_ROWS` rows, the same compiled kernel walks
over the same inputs in the same order, whatever the number of rows, and splits of the inputs are added up
in a fixed order by a second kernel. Nothing is tuned at run time.

Axes: M rows · N outputs · K inputs
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK_K = 128  # inputs of one step; a multiple of every group size
PLANE = tl.constexpr(32)  # inputs of one step that share the same four bits of their words
INT4_ROWS = 32  # outputs whose words of one step stand together, 2 KiB of them
_ROWS: tl.constexpr = tl.constexpr(INT4_ROWS)
_STEP: tl.constexpr = tl.constexpr(BLOCK_K)


@triton.jit
def convert_int8(stored, DTYPE: tl.constexpr):
    """Turn int8 into ``DTYPE``, exactly.

    A byte put into the low bits of 1024 (float16) or 2**23 (float32) is that number plus the byte. This
    takes two operations; the processor's own conversion runs at a quarter of their rate.
    """
    unsigned = stored.to(tl.uint8, bitcast=True).to(tl.int16) ^ 0x80  # value + 128
    if DTYPE == tl.float16:  # noqa: SIM300
        return (unsigned | 0x6400).to(tl.float16, bitcast=True) - 1152.0
    return ((unsigned.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - 8388736.0).to(DTYPE)


@triton.jit
def convert_int4(words, PLANE_INDEX: tl.constexpr, DTYPE: tl.constexpr):
    """Turn four bits of int16 words, which hold value + 8, into ``DTYPE``, exactly; see `convert_int8`.

    Bits 4 to 7 need no shift: put into 64 instead of 1024 they count as bits 0 to 3.
    """
    if DTYPE == tl.float16:  # noqa: SIM300
        byte = words if PLANE_INDEX < 2 else words >> 8
        if PLANE_INDEX % 2 == 0:
            return ((byte & 0x0F) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
        return ((byte & 0xF0) | 0x5400).to(tl.float16, bitcast=True) - 72.0
    nibble = (words.to(tl.int32) >> (4 * PLANE_INDEX)) & 0x0F
    return ((nibble | 0x4B000000).to(tl.float32, bitcast=True) - 8388616.0).to(DTYPE)


@triton.jit
def compute_gelu_tanh(x):
    """Return the tanh-approximated GELU; ``tanh(z)`` as a quotient of exponentials that cannot overflow."""
    z = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # 2 * sqrt(2 / pi)
    small = tl.exp(-tl.abs(z))
    return x * tl.where(z >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _load_inputs(x_rows, columns, in_rows, in_features, EVEN: tl.constexpr):
    """Return the inputs ``columns`` of all rows, ``[K, M]``."""
    if EVEN:
        return tl.load(x_rows + columns[:, None], mask=in_rows, other=0.0)
    return tl.load(x_rows + columns[:, None], mask=in_rows & (columns[:, None] < in_features), other=0.0)


@triton.jit
def _add_int4(
    x_rows,
    weight,
    scale,
    outputs,
    in_rows,
    in_features,
    out_features,
    first,
    last,
    total,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Return ``total [N, M]`` plus the products with int4 weights, scaled if in groups, of some steps."""
    DTYPE: tl.constexpr = x_rows.dtype.element_ty
    lane = tl.arange(0, PLANE)
    steps = tl.cdiv(in_features, _STEP)
    tile = (outputs // _ROWS).to(tl.int64) * steps * (_ROWS * PLANE) + (outputs % _ROWS) * PLANE
    list_words = weight + tile[:, None] + lane[None, :]
    for step in range(first, last):
        words = tl.load(list_words + step * (_ROWS * PLANE))
        for plane in tl.static_range(4):
            column = step * _STEP + plane * PLANE
            inputs = _load_inputs(x_rows, column + lane, in_rows, in_features, EVEN)
            numbers = convert_int4(words, plane, DTYPE)
            if GROUP == 0:
                total = tl.dot(numbers, inputs, total, input_precision="ieee")
            else:
                # One group's sum at a time; a row's is the total itself.
                if (plane * PLANE) % GROUP == 0:
                    part = tl.dot(numbers, inputs, input_precision="ieee")
                else:
                    part = tl.dot(numbers, inputs, part, input_precision="ieee")
                if ((plane + 1) * PLANE) % GROUP == 0:
                    group = tl.minimum(column // GROUP, in_features // GROUP - 1)
                    factor = tl.load(scale + group * out_features + outputs).to(tl.float32)
                    total += part * factor[:, None]
    return total


@triton.jit
def _add_rows(
    x_rows,
    weight,
    outputs,
    in_rows,
    in_features,
    first,
    last,
    total,
    BITS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Return ``total [N, M]`` plus the products with int8 or plain weights, not scaled, of some steps."""
    DTYPE: tl.constexpr = x_rows.dtype.element_ty
    lane = tl.arange(0, _STEP)
    stored_of = weight + outputs.to(tl.int64)[:, None] * in_features + lane[None, :]
    for step in range(first, last):
        columns = step * _STEP + lane
        if EVEN:
            stored = tl.load(stored_of + step * _STEP)
        else:
            stored = tl.load(stored_of + step * _STEP, mask=columns[None, :] < in_features, other=0)
        inputs = _load_inputs(x_rows, columns, in_rows, in_features, EVEN)
        numbers = convert_int8(stored, DTYPE) if BITS == 8 else stored
        total = tl.dot(numbers, inputs, total, input_precision="ieee")
    return total


# Arguments are described where they are named, because a list of so many would be longer than the kernel.
@triton.jit(do_not_specialize=["num_rows"])
def multiply_kernel(
    x,  # [M, K], contiguous
    weight,  # int8 [N, K]; int4 as `_layers.pack_int4_tiles` makes it; or [N, K] in the dtype of x
    scale,  # [N] float32, or [K / GROUP, N]; not read where BITS is 16
    bias,  # [N]
    y,  # [M, N], or [splits, M, N] float32
    num_rows,  # M; not specialised, so that one row runs the same code as many
    in_features,  # K
    out_features,  # N
    steps_per_split,  # of 128 inputs
    BITS: tl.constexpr,  # 4, 8 or 16 = as they are
    GROUP: tl.constexpr,  # inputs that share a scale; 0 = all of a row
    BLOCK_M: tl.constexpr,  # rows of a tile
    BLOCK_N: tl.constexpr,  # outputs of a tile
    EVEN: tl.constexpr,  # K is a multiple of 128
    PARTIAL: tl.constexpr,  # write float32 parts; no bias, no GELU
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,  # apply the GELU at the end
):
    """Compute a tile of ``x [M, K] @ weight.T [K, N]``, or one split's part in float32 ``[split, M, N]``."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows = (m < num_rows)[None, :]
    outputs = tl.minimum(n, out_features - 1)  # the last one again instead of a mask on every load
    first = tl.program_id(2) * steps_per_split
    last = tl.minimum(first + steps_per_split, tl.cdiv(in_features, _STEP))
    x_rows = x + m.to(tl.int64)[None, :] * in_features
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if BITS == 4:
        total = _add_int4(
            x_rows,
            weight,
            scale,
            outputs,
            in_rows,
            in_features,
            out_features,
            first,
            last,
            total,
            GROUP,
            EVEN,
        )
    else:
        total = _add_rows(x_rows, weight, outputs, in_rows, in_features, first, last, total, BITS, EVEN)
    if BITS != 16 and GROUP == 0:
        total = total * tl.load(scale + outputs).to(tl.float32)[:, None]
    if PARTIAL:
        m += tl.program_id(2) * num_rows
    else:
        if HAS_BIAS:
            total += tl.load(bias + outputs).to(tl.float32)[:, None]
        if GELU:
            total = compute_gelu_tanh(total)
    places = y + m.to(tl.int64)[None, :] * out_features + n[:, None]
    tl.store(places, total.to(y.dtype.element_ty), mask=in_rows & (n < out_features)[:, None])


@triton.jit(do_not_specialize=["count"])
def sum_kernel(
    parts,
    bias,
    y,
    count,
    out_features,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
):
    """Add the parts ``[SPLITS, count]`` of `multiply_kernel` in their order; ``count`` is M * N."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + split * count + at, mask=inside, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + at % out_features, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        total = compute_gelu_tanh(total)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def look_up_kernel(ids, weight, scale, y, in_features, out_features, BITS: tl.constexpr, GROUP: tl.constexpr):
    """Write 128 columns of one row of the matrix of `multiply_kernel` to ``y [ids, K]``, in its dtype."""
    place = tl.program_id(0).to(tl.int64)
    step = tl.program_id(1)
    row = tl.load(ids + place).to(tl.int64)
    y += place * in_features
    if BITS == 4:
        lane = tl.arange(0, PLANE)
        tile = (row // _ROWS) * tl.num_programs(1) + step
        words = tl.load(weight + tile * (_ROWS * PLANE) + (row % _ROWS) * PLANE + lane)
        for plane in tl.static_range(4):
            columns = step * _STEP + plane * PLANE + lane
            inside = columns < in_features
            if GROUP == 0:
                factor = tl.load(scale + row).to(tl.float32)
            else:
                factors = scale + (columns // GROUP) * out_features + row
                factor = tl.load(factors, mask=inside, other=0.0).to(tl.float32)
            numbers = convert_int4(words, plane, tl.float32) * factor
            tl.store(y + columns, numbers.to(y.dtype.element_ty), mask=inside)
    else:
        columns = step * _STEP + tl.arange(0, _STEP)
        inside = columns < in_features
        stored = tl.load(weight + row * in_features + columns, mask=inside, other=0)
        numbers = convert_int8(stored, tl.float32) * tl.load(scale + row).to(tl.float32)
        tl.store(y + columns, numbers.to(y.dtype.element_ty), mask=inside)
