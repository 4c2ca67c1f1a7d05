"""The layers over Triton's kernels, in its interpreter, against the runtime's reference in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from backend_cases import random_matrix, relative_error
from glm_runtime_torch.network.fused import apply_linear_gelu
from glm_runtime_torch.quantization import (
    QuantizedLinear,
    dequantize_rows,
    pack_int4,
    unpack_int4,
)
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from glm_backend_cuda import _layers
from glm_backend_cuda._layers import (
    DECODE_ROWS,
    TritonEmbedding,
    TritonLayers,
    TritonLinear,
    count_splits,
    pack_int4_tiles,
)

# Sums are float32 and nothing is rounded before the result, which is rounded once to its dtype.
ROUNDING = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
# (bits, inputs that share a scale, outputs, inputs); the last two have their inputs split.
MATRICES = (
    (8, 0, 40, 130),
    (8, 0, 1, 64),
    (4, 0, 37, 98),
    (4, 32, 70, 160),
    (4, 64, 33, 192),
    (4, 128, 64, 256),
    (4, 0, 31, 1030),
    (8, 0, 64, 1024),
)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(("bits", "group_size", "out", "columns"), MATRICES)
def test_product_is_that_of_the_dequantised_matrix(
    bits: int, group_size: int, out: int, columns: int, dtype: torch.dtype
) -> None:
    """For one row, for more than a tile has, and for a whole prompt; biases included."""
    integers, scale, bias = random_matrix(out, columns, bits, group_size)
    layer = TritonLayers(dtype).make_linear(integers, scale, bias, bits, group_size)
    weight = dequantize_rows(integers, scale, bits, torch.float64, group_size)
    x = torch.randn(DECODE_ROWS + 6, columns).to(dtype)
    wanted = x.double() @ weight.T + bias.double()
    for rows in (1, 17, len(x)):
        found = layer(x[:rows])
        assert found.dtype == dtype
        assert found.shape == (rows, out)
        assert relative_error(found, wanted[:rows]) < ROUNDING[dtype]


@pytest.mark.parametrize(("bits", "group_size"), [(8, 0), (4, 0), (4, 32), (16, 0)])
def test_a_row_is_computed_the_same_in_every_batch(bits: int, group_size: int) -> None:
    """Its bits depend neither on the number of rows nor on its place among them, split inputs or not."""
    torch.manual_seed(1)
    for columns in (288, 1088):
        if bits == 16:
            weight = torch.randn(40, columns).half()
            layer: nn.Module = TritonLinear.from_dense(weight, torch.randn(40).half())
        else:
            layer = TritonLayers(torch.float16).make_linear(
                *random_matrix(40, columns, bits, group_size), bits, group_size
            )
        x = torch.randn(DECODE_ROWS, columns).half()
        together = layer(x)
        for rows in (1, 2, 3, 7, 16, 17, 33):
            assert torch.equal(layer(x[:rows]), together[:rows])
        chosen = torch.tensor([63, 5, 31])
        assert torch.equal(layer(x[chosen]), together[chosen])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_plain_weights_are_multiplied_too(dtype: torch.dtype) -> None:
    """They stay where they are; inputs that are no multiple of a step, and prompts, are right."""
    weight, bias = torch.randn(45, 300).to(dtype), torch.randn(45).to(dtype)
    layer = TritonLinear.from_dense(weight, bias)
    assert layer.weight.data_ptr() == weight.data_ptr()
    x = torch.randn(DECODE_ROWS + 1, 300).to(dtype)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    assert relative_error(layer(x[:5]), wanted[:5]) < ROUNDING[dtype]
    assert relative_error(layer(x), wanted) < 2 * ROUNDING[dtype]


def test_extreme_integers_are_exact() -> None:
    """Every number that a byte or four bits can hold is multiplied as what it is, -128 and -8 too."""
    for bits, count in ((8, 256), (4, 16)):
        numbers = torch.arange(-count // 2, count // 2, dtype=torch.int8).repeat(2)
        integers = numbers.repeat(3, 1) if bits == 8 else pack_int4(numbers.repeat(3, 1))
        for dtype in ROUNDING:
            layer = TritonLayers(dtype).make_linear(integers, torch.ones(3), None, bits, 0)
            assert torch.equal(layer(torch.eye(2 * count, dtype=dtype)[:64])[:, 0], numbers[:64].to(dtype))


def unpack_tiles(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """Undo `pack_int4_tiles`, up to numbers of one byte each: int8 ``[N, K]``."""
    planes = [((packed >> (4 * plane)) & 15) - 8 for plane in range(4)]
    numbers = torch.stack(planes, dim=3).to(torch.int8)  # [tiles, steps, 32, 4, 32]
    return numbers.transpose(1, 2).flatten(0, 1).flatten(1)[:out_features, :in_features]


def test_packed_int4_can_be_unpacked() -> None:
    """Sizes that fill no tile too; what is beyond the matrix is zero."""
    numbers = torch.randint(-8, 8, (45, 150), dtype=torch.int8)
    packed = pack_int4_tiles(pack_int4(numbers))
    assert packed.shape == (2, 2, 32, 32)
    assert torch.equal(unpack_tiles(packed, 45, 150), numbers)
    whole = unpack_tiles(packed, 64, 256)
    assert whole[45:].abs().max() == whole[:, 150:].abs().max() == 0


def test_packing_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large matrix is packed some tiles at a time."""
    integers = torch.randint(-128, 128, (300, 640), dtype=torch.int8)
    at_once = pack_int4_tiles(integers)
    monkeypatch.setattr(_layers, "PACKED_AT_A_TIME", 2**15)
    assert torch.equal(pack_int4_tiles(integers), at_once)
    assert torch.equal(unpack_tiles(at_once, 300, 1280), unpack_int4(integers))


@pytest.mark.parametrize(("bits", "group_size"), [(8, 0), (4, 0), (4, 32)])
def test_tied_table_is_in_memory_once(bits: int, group_size: int) -> None:
    """Embedding and head share integers and scales; rows come out exactly, in the model's dtype."""
    integers, scale, _ = random_matrix(50, 160, bits, group_size)
    embedding, head = TritonLayers(torch.bfloat16).make_tied_table(integers, scale, bits, group_size)
    assert isinstance(embedding, TritonEmbedding)
    assert [id(part) for part in embedding.parameters()] == [id(part) for part in head.parameters()]
    table = dequantize_rows(integers, scale, bits, torch.bfloat16, group_size)
    ids = torch.tensor([[1, 49], [0, 33]])
    assert torch.equal(embedding(ids), table[ids])
    assert embedding(ids[:0]).shape == (0, 2, 160)
    x = torch.randn(3, 160).bfloat16()
    assert relative_error(head(x), x.float() @ table.float().T) < 2e-2


def test_int8_stays_where_it_is() -> None:
    """An embedding that was there before can go on sharing it."""
    integers, scale, _ = random_matrix(40, 64, 8)
    reference = QuantizedLinear.from_stored(integers, scale, None, 8)
    made = TritonLayers(torch.float16).make_linear(reference.weight, reference.weight_scale, None, 8, 0)
    assert made.weight is reference.weight


@pytest.mark.parametrize(("bits", "columns"), [(4, 96), (8, 1024)])
def test_feed_forward_part_is_fused(bits: int, columns: int) -> None:
    """A layer fused with its GELU, split or not, gives what the two give one after the other."""
    integers, scale, bias = random_matrix(40, columns, bits)
    layer = TritonLayers(torch.float32).make_linear(integers, scale, bias * 20, bits, 0)
    for rows in (3, DECODE_ROWS + 1):
        x = torch.randn(rows, columns)
        wanted = F.gelu(layer(x).double(), approximate="tanh")
        assert relative_error(apply_linear_gelu(layer, x), wanted) < 1e-6


@pytest.mark.parametrize(("bits", "group_size"), [(4, 0), (4, 32), (8, 0)])
def test_gradients_flow_to_the_input(bits: int, group_size: int) -> None:
    """P-Tuning through a frozen quantised base gets the reference's gradient."""
    integers, scale, bias = random_matrix(40, 64, bits, group_size)
    reference = QuantizedLinear.from_stored(integers, scale, bias, bits, group_size)
    ours = TritonLayers(torch.float32).make_linear(integers, scale, bias, bits, group_size)
    x = torch.randn(3, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x)
    (expected,) = torch.autograd.grad(reference(x).square().sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_other_dtypes_are_computed_by_torch() -> None:
    """float64, and plain weights of another dtype than the input, give the right result all the same."""
    integers, scale, bias = random_matrix(20, 30, 4)
    x = torch.randn(2, 30, dtype=torch.float64)
    layer = TritonLayers(torch.float32).make_linear(integers, scale, bias, 4, 0)
    wanted = x @ dequantize_rows(integers, scale, 4, torch.float64).T + bias.double()
    assert relative_error(layer(x), wanted) < 1e-6
    plain = TritonLinear.from_dense(torch.randn(20, 30).half(), None)
    assert relative_error(plain(x.float()), x @ plain.weight.double().T) < 1e-6


def test_shapes_of_inputs_are_kept() -> None:
    """Any number of axes, non-contiguous inputs and no rows at all."""
    layer = TritonLayers(torch.float32).make_linear(*random_matrix(40, 64, 8), 8, 0)
    x = torch.randn(64, 3, 2).transpose(0, 2)
    assert layer(x).shape == (2, 3, 40)
    assert torch.equal(layer(x)[1, 2], layer(x[1, 2].contiguous()))
    assert layer(torch.empty(0, 64)).shape == (0, 40)


def test_layers_can_be_copied_and_printed() -> None:
    """Copies compute the same; the text says sizes and form."""
    layer = TritonLayers(torch.float32).make_linear(*random_matrix(40, 64, 4, 32), 4, 32)
    x = torch.randn(2, 64)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert str(layer) == "TritonLinear(64, 40, bits=4, group_size=32)"


def test_only_matrices_with_few_outputs_are_split() -> None:
    """Those of ChatGLM-6B fill a GPU by themselves; a second kernel would cost them time."""
    sizes = ((4096, 12288), (4096, 4096), (4096, 16384), (16384, 4096), (4096, 130528))
    assert [count_splits(*size) for size in sizes] == [1] * 5
    assert count_splits(2048, 512) == 4
    assert count_splits(256, 64) == 1
