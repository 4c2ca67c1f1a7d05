"""Products with packed matrices, against plain torch, at every instruction level.

Tolerances are relative errors of a whole result. Float results are rounded once, so float32 differs by
the order of its sums only; activations in int8 carry 1/254 of their group's largest value each, which
is below 1 % of a Gaussian result, and 2 % leaves room for short rows.
"""

from __future__ import annotations

import copy
import os
import threading
from dataclasses import dataclass

import pytest
import torch
from backend_cases import relative_error
from glm_backend_cpu._native import Native
from glm_backend_cpu._packed import GELU_TANH, PackedMatrix, pack_dense, pack_quantized, reserve
from glm_runtime_torch.quantization import dequantize_rows, quantize_rows
from key_words import containing
from torch import Tensor
from torch.nn import functional as F

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
INT8_ACTIVATIONS = 0.02
# (out, in): whole blocks, nothing whole, longer than a group, a single block, one row.
SIZES = ((48, 128), (37, 70), (100, 1000), (16, 8), (1, 32))
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)


@dataclass(frozen=True)
class Form:
    """One way of storing weights: bits (0 = as they are), group and dtype."""

    bits: int
    group_size: int = 0
    dtype: torch.dtype = torch.float32


FORMS = (
    Form(4),
    Form(8),
    Form(4, 32),
    Form(4, 64),
    Form(4, 128),
    Form(0, 0, torch.float32),
    Form(0, 0, torch.bfloat16),
    Form(0, 0, torch.float16),
)
INTEGER_PRODUCTS = [
    (form, group) for form in FORMS[:5] for group in (32, 64, 128) if form.group_size % group == 0
]
ALL_PRODUCTS = [*((form, 0) for form in FORMS), *((form, 32) for form in FORMS[:5])]


def make(
    native: Native, form: Form, out: int, columns: int, *, bias: bool = True
) -> tuple[PackedMatrix, Tensor, Tensor | None]:
    """A packed random matrix, what it stands for in float64, and its bias."""
    generator = torch.Generator().manual_seed(out * 10_000 + columns)
    weight = torch.randn(out, columns, generator=generator)
    offset = torch.randn(out, generator=generator) if bias else None
    if form.bits:
        stored, scale = quantize_rows(weight.bfloat16(), form.bits, form.group_size)
        packed = PackedMatrix(
            native, *pack_quantized(native, stored, scale, offset, form.bits, form.group_size)
        )
        exact = dequantize_rows(stored, scale, form.bits, torch.float32, form.group_size)
    else:
        exact = weight.to(form.dtype)
        packed = PackedMatrix(native, *pack_dense(native, exact, offset))
    return packed, exact.double(), None if offset is None else offset.double()


def inputs(count: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random activations ``[count, columns]``."""
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(count)).to(dtype)


def fits(form: Form, columns: int) -> bool:
    """Whether groups divide the columns."""
    return not form.group_size or columns % form.group_size == 0


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_exact_activations_match_torch(native: Native, form: Form, dtype: torch.dtype) -> None:
    """Every format times every dtype equals the float64 product up to one rounding, odd sizes included."""
    seen = 0
    for out, columns in (size for size in SIZES if fits(form, size[1])):
        packed, exact, bias = make(native, form, out, columns)
        x = inputs(9, columns, dtype)
        found = packed.multiply(x)
        assert found.dtype == dtype
        assert relative_error(found, F.linear(x.double(), exact, bias)) < ROUNDING[dtype]
        seen += 1
    assert seen


@pytest.mark.parametrize(("form", "act_group"), INTEGER_PRODUCTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_int8_activations_are_close(
    native: Native, form: Form, dtype: torch.dtype, act_group: int
) -> None:
    """Integer products stay within the error that rounding activations brings."""
    seen = 0
    for out, columns in (size for size in SIZES if fits(form, size[1])):
        packed, exact, bias = make(native, form, out, columns)
        x = inputs(9, columns, dtype)
        found = packed.multiply(x, act_group)
        assert relative_error(found, F.linear(x.double(), exact, bias)) < INT8_ACTIVATIONS
        seen += 1
    assert seen


@pytest.mark.parametrize("bits", [4, 8])
def test_integer_products_are_exact(native: Native, bits: int) -> None:
    """Activations that int8 holds exactly give the exact sum, also with the most extreme integers."""
    lowest, highest = (-8, 7) if bits == 4 else (-128, 127)
    pattern = torch.tensor([lowest, highest, 0, 1], dtype=torch.int8).repeat(32, 40)  # [32, 160]
    integers = pattern.roll(1, 1) if bits == 8 else pattern
    stored = integers if bits == 8 else ((integers[:, 0::2] << 4) | (integers[:, 1::2] & 15))
    packed = PackedMatrix(native, *pack_quantized(native, stored, torch.ones(32), None, bits, 0))
    for sign in (1.0, -1.0):
        x = torch.full((5, 160), 127.0 * sign)
        x[:, ::3] = -127.0 * sign
        assert torch.equal(packed.multiply(x, 32), x @ integers.float().T)


@pytest.mark.parametrize(("form", "act_group"), ALL_PRODUCTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_gives_the_same_bits_in_every_batch(
    native: Native, form: Form, act_group: int, dtype: torch.dtype
) -> None:
    """Whatever the batch and the row's place in it, and however many threads compute."""
    packed, _, _ = make(native, form, 149, 384)
    x = inputs(40, 384, dtype)
    native.threads = 1
    alone = torch.cat([packed.multiply(row.unsqueeze(0), act_group) for row in x])
    for threads in (1, 2, 3):
        native.threads = threads
        for count in (*COUNTS, 40):
            assert torch.equal(packed.multiply(x[-count:], act_group), alone[-count:]), (threads, count)


@pytest.mark.parametrize("form", [Form(4), Form(8), Form(4, 32), Form(0, 0, torch.bfloat16)], ids=str)
@pytest.mark.parametrize("count", [33, 128, 513, 4096])
def test_many_rows(native: Native, form: Form, count: int) -> None:
    """Batches of more rows than are prepared at a time come out as their rows do alone."""
    packed, exact, bias = make(native, form, 33, 96)
    x = inputs(count, 96, torch.bfloat16)
    found = packed.multiply(x)
    assert relative_error(found, F.linear(x.double(), exact, bias)) < ROUNDING[torch.bfloat16]
    if form.bits:
        found = packed.multiply(x, 32)
        for row in (0, count // 2, count - 1):
            assert torch.equal(found[row], packed.multiply(x[row : row + 1], 32)[0])


@pytest.mark.parametrize("act_group", [0, 32])
def test_inputs_may_be_strided_and_unaligned(native: Native, act_group: int) -> None:
    """Slices of rows and columns, and transposed inputs, give what their copies give."""
    packed, _, _ = make(native, Form(4), 40, 70)
    for dtype in DTYPES:
        wide = inputs(12, 200, dtype)
        for x in (wide[:, 3:73], wide[::2, 1:71], wide[:, 5:145:2], inputs(70, 12, dtype).T):
            assert torch.equal(packed.multiply(x, act_group), packed.multiply(x.contiguous(), act_group))
        deep = wide[:, :70].unflatten(0, (3, 4))
        assert torch.equal(
            packed.multiply(deep, act_group).flatten(0, 1), packed.multiply(wide[:, :70], act_group)
        )
        assert packed.multiply(wide[0, 7:77], act_group).shape == (40,)
        assert packed.multiply(wide[:0, :70], act_group).shape == (0, 40)
        with pytest.raises(ValueError, match=containing("71 channels", "70")):
            packed.multiply(wide[:, :71], act_group)


def test_weights_may_be_strided(fastest: Native) -> None:
    """Packing takes slices and transposed matrices for what they are."""
    weight = torch.randn(70, 96)
    for part in (weight[3:40, 1:80], weight[::2], weight.T):
        packed = PackedMatrix(fastest, *pack_dense(fastest, part, None))
        assert torch.equal(packed.dequantize(torch.float32), part)


@pytest.mark.parametrize("act_group", [0, 32])
def test_zeros_stay_zeros(native: Native, act_group: int) -> None:
    """Rows of zeros, in weights or activations, give zeros and never NaN."""
    weight = torch.randn(20, 64)
    weight[7] = 0
    packed = PackedMatrix(native, *pack_quantized(native, *quantize_rows(weight, 4), None, 4, 0))
    x = inputs(3, 64)
    x[1] = 0
    found = packed.multiply(x, act_group)
    assert torch.equal(found[1], torch.zeros(20))
    assert torch.equal(found[:, 7], torch.zeros(3))
    assert found.isfinite().all()


def test_extreme_activations(native: Native) -> None:
    """Tiny values count as zeros, huge ones keep their size, what is not finite shows in its row only."""
    packed, exact, _ = make(native, Form(8), 20, 64, bias=False)
    x = inputs(6, 64)
    x[0] *= 1e-35
    x[1] *= 1e30
    x[2, 5] = float("nan")
    x[3, 9] = float("inf")
    found = packed.multiply(x, 32)
    assert found[0].abs().max() < 1e-30
    assert relative_error(found[1], x[1].double() @ exact.T) < INT8_ACTIVATIONS
    assert not found[2:4].isfinite().any()
    assert found[4:].isfinite().all()


@pytest.mark.parametrize("act_group", [0, 32])
def test_an_outlier_spoils_its_group_only(native: Native, act_group: int) -> None:
    """A channel 100 times larger than the rest costs the other groups nothing."""
    packed, exact, _ = make(native, Form(8), 24, 256, bias=False)
    x = inputs(4, 256)
    x[:, 40] = 100
    others = torch.cat((x[:, :32], torch.zeros(4, 32), x[:, 64:]), dim=1)
    rest = packed.multiply(x, act_group) - packed.multiply(x - others, act_group)
    assert relative_error(rest, others.double() @ exact.T) < 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gelu_is_fused(native: Native, dtype: torch.dtype) -> None:
    """The fused GELU is torch's tanh approximation, far out too."""
    packed, exact, bias = make(native, Form(0), 50, 64)
    x = inputs(6, 64, dtype)
    wanted = F.gelu(F.linear(x.double(), exact, bias), approximate="tanh")
    assert relative_error(packed.multiply(x, 0, GELU_TANH), wanted) < ROUNDING[dtype]
    far = PackedMatrix(native, *pack_dense(native, torch.eye(16) * 50, None))
    assert far.multiply(-torch.ones(1, 16), 0, GELU_TANH).abs().max() < 1e-30
    assert torch.equal(far.multiply(torch.ones(1, 16), 0, GELU_TANH), torch.full((1, 16), 50.0))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_are_looked_up(native: Native, form: Form) -> None:
    """Every row of every format is given back exactly, in every dtype; ids outside are refused."""
    columns = 1152 if form.group_size else 1100  # longer than the piece that is unpacked at a time
    packed, exact, _ = make(native, form, 37, columns)
    assert torch.equal(packed.dequantize(torch.float32).double(), exact)
    ids = torch.tensor([[3, 36], [0, 3]])
    for dtype in DTYPES:
        assert torch.equal(packed.look_up(ids, dtype), exact[ids].float().to(dtype))
    assert packed.look_up(torch.empty(0, dtype=torch.int64), torch.float32).shape == (0, columns)
    with pytest.raises(IndexError, match="between 0 and 36"):
        packed.look_up(torch.tensor([37]), torch.float32)
    with pytest.raises(IndexError, match="between 0 and 36"):
        packed.look_up(torch.tensor([-1]), torch.float32)


def test_group_scales_take_16_bits_only_where_exact(native: Native) -> None:
    """Scales that neither half format holds are kept in float32, and products use them."""
    stored = torch.randint(-128, 128, (32, 64), dtype=torch.int8)
    for scale in (torch.rand(32, 4).half(), torch.rand(32, 4).bfloat16() * 2.0**40, torch.rand(32, 4) + 1e-4):
        memory, layout = pack_quantized(native, stored, scale, None, 4, 32)
        wanted = {torch.float16: torch.float16, torch.bfloat16: torch.bfloat16}.get(
            scale.dtype, torch.float32
        )
        assert layout.scale_dtype == wanted
        exact = dequantize_rows(stored, scale, 4, torch.float32, 32)
        packed = PackedMatrix(native, memory, layout)
        assert torch.equal(packed.dequantize(torch.float32), exact)
        x = inputs(3, 128)
        assert relative_error(packed.multiply(x), x.double() @ exact.double().T) < 2e-6
        assert relative_error(packed.multiply(x, 32), x.double() @ exact.double().T) < INT8_ACTIVATIONS


def test_several_threads_may_call_at_once(fastest: Native) -> None:
    """Calls from many Python threads get the results that they get alone."""
    packed, _, _ = make(fastest, Form(4), 512, 512)
    x = [inputs(count, 512) for count in (1, 3, 8, 20)]
    wanted = [packed.multiply(rows, 32) for rows in x]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(50):
            if not torch.equal(packed.multiply(x[which], 32), wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which % 4,)) for which in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_computes(fastest: Native) -> None:
    """After fork() the child, which has none of the threads, makes its own and computes the same."""
    packed, _, _ = make(fastest, Form(8), 1024, 1024)
    x = inputs(8, 1024)
    wanted = packed.multiply(x, 32)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(packed.multiply(x, 32), wanted) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(packed.multiply(x, 32), wanted)


def test_a_copied_matrix_is_the_same_matrix(fastest: Native) -> None:
    """Deep copies of networks share packed matrices, which never change."""
    packed, _, _ = make(fastest, Form(4), 32, 64)
    assert copy.deepcopy(packed) is packed


def test_large_memory_is_aligned_to_huge_pages() -> None:
    """Reservations of several megabytes begin at a huge page and are as long as asked for."""
    memory = reserve(9_000_001)
    assert memory.numel() == 9_000_001
    assert memory.data_ptr() % 2**21 == 0
    memory.fill_(3)
    assert int(memory[-1]) == 3
    assert reserve(10).numel() == 10
