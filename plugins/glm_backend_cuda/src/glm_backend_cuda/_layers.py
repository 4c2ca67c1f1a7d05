"""Layers for inference that compute with the Triton kernels, in the place of the runtime's layers.

Up to `DECODE_ROWS` rows, a row's result does not depend on the other rows, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
from glm_runtime_torch.backends import freeze, unpack_int4
from torch import Tensor, nn
from torch.nn import functional as F

from ._tensors import use_device_of
from ._triton_linear import BLOCK_K, INT4_ROWS, look_up_kernel, multiply_kernel, sum_kernel

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DECODE_ROWS = 64  # up to here a row's bits do not depend on the number of rows
PLANES = 4  # four-bit numbers in a word
PACKED_AT_A_TIME = 2**24  # weights; temporaries are four times that many bytes


@dataclass(frozen=True)
class Tiling:
    """How the work of a product is cut.

    Attributes:
        rows: rows of a tile.
        outputs: outputs of a tile.
        warps: of a program.
        stages: loads in flight.
    """

    rows: int
    outputs: int
    warps: int
    stages: int


# Decoding waits for memory. 16 rows are the least that tensor cores take, so one row costs what 16 do. 32
# outputs give 128 programs where a layer has 4,096 outputs, about one for each multiprocessor of the
# largest GPUs. An int4 step is 2 KiB of weights and 4 KiB of inputs: with 5 stages 8 KiB of weights are on
# their way in every program, and three programs on a multiprocessor hold the 23 KiB that 4 TB/s at 0.7
# microseconds ask for. 32 is also below the 64 where Hopper changes to another instruction, so one kind of
# product serves every architecture.
DECODE = Tiling(rows=16, outputs=32, warps=4, stages=5)
# Two warps turn each weight into a number once, four do it twice, since 32 outputs are two of the tensor
# cores' tiles. Four keep a multiprocessor busy that has one program; where there are more, two are enough.
DECODE_MANY = Tiling(rows=16, outputs=32, warps=2, stages=5)
MANY_TILES = 256
# Without tensor cores (float32, and capability 7.5, where Triton has no use for them) every row costs
# arithmetic; four at a time leave one row near the memory's speed.
DECODE_PLAIN = Tiling(rows=4, outputs=32, warps=4, stages=5)
# Prefill waits for the tensor cores. A tile of 64 x 128 reads 192 numbers for 8,192 products, and its sums
# take 32 registers of each of 256 threads, twice that with groups. Three stages of an int4 step are 72 KiB;
# the smallest limit among GPUs that copy asynchronously is 99 KiB. An int8 step has 32 KiB instead of 24.
PREFILL = Tiling(rows=64, outputs=128, warps=8, stages=3)
PREFILL_INT8 = Tiling(rows=64, outputs=128, warps=8, stages=2)
TENSOR_CORES = (8, 0)  # the capability from which Triton multiplies on them

# Fewer tiles of outputs than these leave multiprocessors idle, so the inputs are split.
FEW_TILES, MOST_SPLITS, LEAST_STEPS = 64, 8, 4
SUM_BLOCK = 1024  # outputs of a program that adds the splits up; eight for each of 128 threads


def count_splits(in_features: int, out_features: int) -> int:
    """Return into how many parts the inputs are split while decoding; the matrix alone decides."""
    tiles, steps = -(-out_features // DECODE.outputs), -(-in_features // BLOCK_K)
    return max(1, min(FEW_TILES // tiles, MOST_SPLITS, steps // LEAST_STEPS))


def pack_int4_tiles(stored: Tensor) -> Tensor:
    """Reorder stored int4 so that one step of one tile is one piece of memory.

    A word of 16 bits holds the columns w, w + 32, w + 64 and w + 96 of 128, from its lowest bits up, each as
    value + 8. A tile is 32 rows x 128 columns; rows and columns beyond the matrix are zeros.

    Args:
        stored: int8 ``[N, K / 2]``, see `glm_runtime_torch.backends.quantize_rows`.

    Returns:
        int16 ``[N / 32, K / 128, 32, 32]``, rounded up, on the same device.
    """
    rows, half = stored.shape
    columns = 2 * half
    tiles, steps = -(-rows // INT4_ROWS), -(-columns // BLOCK_K)
    packed = torch.empty(tiles, steps, INT4_ROWS, BLOCK_K // PLANES, dtype=torch.int16, device=stored.device)
    some = max(1, PACKED_AT_A_TIME // (steps * BLOCK_K * INT4_ROWS))
    for start in range(0, tiles, some):
        piece = unpack_int4(stored[start * INT4_ROWS : (start + some) * INT4_ROWS])
        count = -(-len(piece) // INT4_ROWS)
        padded = piece.new_zeros(count * INT4_ROWS, steps * BLOCK_K)
        padded[: len(piece), :columns] = piece
        nibbles = padded.add_(8).view(count, INT4_ROWS, steps, PLANES, -1)  # [t, 32, steps, 4, 32]
        low, high = nibbles[..., 0::2, :], nibbles[..., 1::2, :]
        both = (low | (high << 4)).transpose(1, 2).transpose(3, 4)  # [t, steps, 32, 32, 2 bytes]
        packed[start : start + count] = both.contiguous().view(torch.int16).squeeze(-1)
    return packed


class TritonLinear(nn.Module):
    """A linear layer over integers, or over weights as they are.

    Where a gradient is needed, or the input has a dtype that the kernels do not know, the matrix is
    dequantised at each call, which is slow.

    Args:
        weight: as `glm_backend_cuda._triton_linear.multiply_kernel` takes it.
        scale: likewise; ``None`` for weights as they are.
        bias: ``[N]`` or ``None``.
        in_features: K.
        out_features: N.
        bits: 4, 8 or 16.
        group_size: inputs that share a scale; 0 = all of a row.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        group_size: int = 0,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        self.splits = count_splits(in_features, out_features)
        self.weight = freeze(weight)
        self.weight_scale = None if scale is None else freeze(scale)
        self.bias = None if bias is None else freeze(bias)

    @classmethod
    def from_stored(
        cls, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int = 0
    ) -> TritonLinear:
        """Return a layer of integers and scales as `glm_runtime_torch.backends.quantize_rows` returns them.

        int8 stays where it is, so that an embedding can share it; int4 is reordered.
        """
        in_features = stored.shape[1] * (2 if bits == 4 else 1)
        weight = pack_int4_tiles(stored) if bits == 4 else stored.contiguous()
        return cls(
            weight,
            pack_scale(scale, group_size),
            bias,
            in_features,
            stored.shape[0],
            bits=bits,
            group_size=group_size,
        )

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None) -> TritonLinear:
        """Return a layer of weights ``[N, K]``, whose memory it shares."""
        return cls(weight.contiguous(), None, bias, weight.shape[1], weight.shape[0], bits=16)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in the dtype of ``x``."""
        return self._compute(x, gelu=False)

    def forward_gelu(self, x: Tensor) -> Tensor:
        """Map as `forward` does and apply the tanh-approximated GELU."""
        return self._compute(x, gelu=True)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the whole matrix ``[N, K]``."""
        if self.weight_scale is None:
            return self.weight.to(dtype)
        every = torch.arange(self.out_features, device=self.weight.device)
        return look_up(self, every, dtype if dtype in DTYPES else torch.float32).to(dtype)

    def extra_repr(self) -> str:
        """Return the sizes, for people who print the network."""
        groups = f", group_size={self.group_size}" if self.group_size else ""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}{groups}"

    def _compute(self, x: Tensor, *, gelu: bool) -> Tensor:
        rows = x.numel() // self.in_features
        tiling = self._choose_tiling(x, rows)
        if tiling is None or not rows:
            y = F.linear(x, self._get_matrix(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
            return F.gelu(y, approximate="tanh") if gelu else y
        flat = x.reshape(rows, self.in_features).contiguous()
        return self._launch(flat, tiling, gelu).view(*x.shape[:-1], self.out_features)

    def _get_matrix(self, dtype: torch.dtype) -> Tensor:
        return self.weight if self.weight.dtype == dtype else self.dequantize(dtype)

    def _choose_tiling(self, x: Tensor, rows: int) -> Tiling | None:
        """Return how the kernels compute this; ``None`` where torch does."""
        if x.dtype not in DTYPES or (torch.is_grad_enabled() and x.requires_grad):
            return None
        if self.bits == 16 and (x.dtype != self.weight.dtype or rows > DECODE_ROWS):
            return None
        if x.dtype == torch.float32 or not has_tensor_cores(x.device):
            return DECODE_PLAIN if rows <= DECODE_ROWS else None
        if rows > DECODE_ROWS:
            return PREFILL_INT8 if self.bits == 8 else PREFILL
        return DECODE_MANY if self.out_features >= MANY_TILES * DECODE.outputs else DECODE

    def _launch(self, x: Tensor, tiling: Tiling, gelu: bool) -> Tensor:
        rows, splits = len(x), self.splits if len(x) <= DECODE_ROWS else 1
        steps = -(-self.in_features // BLOCK_K)
        per_split = -(-steps // splits)
        y = torch.empty(rows, self.out_features, dtype=x.dtype, device=x.device)
        parts = y
        if splits > 1:
            parts = torch.empty(splits, rows, self.out_features, dtype=torch.float32, device=x.device)
        bias = x if self.bias is None else self.bias  # a kernel takes no absent pointer
        grid = (-(-rows // tiling.rows), -(-self.out_features // tiling.outputs), splits)
        with use_device_of(x):
            multiply_kernel[grid](
                x,
                self.weight,
                x if self.weight_scale is None else self.weight_scale,
                bias,
                parts,
                rows,
                self.in_features,
                self.out_features,
                per_split,
                BITS=self.bits,
                GROUP=self.group_size,
                BLOCK_M=tiling.rows,
                BLOCK_N=tiling.outputs,
                EVEN=self.in_features % BLOCK_K == 0,
                PARTIAL=splits > 1,
                HAS_BIAS=self.bias is not None,
                GELU=gelu,
                num_warps=tiling.warps,
                num_stages=tiling.stages,
            )
            if splits > 1:
                sum_kernel[(triton.cdiv(y.numel(), SUM_BLOCK),)](
                    parts,
                    bias,
                    y,
                    y.numel(),
                    self.out_features,
                    SPLITS=splits,
                    BLOCK=SUM_BLOCK,
                    HAS_BIAS=self.bias is not None,
                    GELU=gelu,
                )
        return y


class TritonEmbedding(nn.Module):
    """An embedding over the matrix of a head.

    Args:
        head: the layer over the same matrix.
        dtype: of the rows that it returns.
    """

    def __init__(self, head: TritonLinear, dtype: torch.dtype) -> None:
        super().__init__()
        assert head.weight_scale is not None  # tables of plain weights stay torch's embedding
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self.matrix, self.dtype = head, dtype

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return rows ``[..., embedding_dim]`` of ids ``[...]``."""
        return look_up(self.matrix, token_ids, self.dtype)


def look_up(matrix: TritonLinear, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rows ``[..., K]`` of ids ``[...]`` in one of `DTYPES`, without a larger form in between."""
    flat = ids.reshape(-1).contiguous()
    y = torch.empty(len(flat), matrix.in_features, dtype=dtype, device=matrix.weight.device)
    if len(flat):
        with use_device_of(y):
            look_up_kernel[(len(flat), -(-matrix.in_features // BLOCK_K))](
                flat,
                matrix.weight,
                matrix.weight_scale,
                y,
                matrix.in_features,
                matrix.out_features,
                BITS=matrix.bits,
                GROUP=matrix.group_size,
                num_warps=1,
            )
    return y.view(*ids.shape, matrix.in_features)


class TritonLayers:
    """`glm_backend_cuda._kernel_set.QuantizedLayers` of these kernels.

    Args:
        dtype: of the rows that embeddings return.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def make_linear(
        self, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int
    ) -> nn.Module:
        """Return a `TritonLinear`."""
        return TritonLinear.from_stored(stored, scale, bias, bits, group_size)

    def make_tied_table(
        self, stored: Tensor, scale: Tensor, bits: int, group_size: int
    ) -> tuple[nn.Module, nn.Module]:
        """Return a `TritonEmbedding` over the matrix of a `TritonLinear`, and that layer."""
        head = TritonLinear.from_stored(stored, scale, None, bits, group_size)
        return TritonEmbedding(head, self._dtype), head


def pack_scale(scale: Tensor, group_size: int) -> Tensor:
    """Return scales as the kernels read them: ``[N]`` float32, or ``[groups, N]``, in 16 bits where exact."""
    exact = scale.float()
    if not group_size:
        return exact.contiguous()
    half = exact.half()
    return (half if torch.equal(half.float(), exact) else exact).T.contiguous()


@cache
def has_tensor_cores(device: torch.device) -> bool:
    """Return whether the kernels multiply on tensor cores there; Triton's interpreter is treated as if."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= TENSOR_CORES
