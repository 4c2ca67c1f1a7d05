"""Placing models as on a Mac, with the processor in the place of its GPU."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from backend_cases import answer_and_close, open_tiny
from glm_backend_mps import _metal, _placement, _products
from glm_backend_mps._placement import place_on_mps
from glm_backend_mps._products import ProductInt4Linear, ProductInt8Linear, check, make_product_layer
from glm_runtime_torch.backends import quantize_model
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.quantization import QuantizedLinear, quantize_rows, unpack_int4
from key_words import containing
from tiny_models import tiny_checkpoint
from torch import Tensor

from glm_core import DeviceError, OutOfMemoryError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

GB = 10**9


class Processor:
    """The functions of `_metal` computed plainly, in the forms that PyTorch documents for the GPU."""

    DEVICE: torch.device = torch.device("cpu")
    INT4_GROUPS: tuple[int, ...] = _metal.INT4_GROUPS
    INT4_ROWS: int = _metal.INT4_ROWS

    def __init__(self, free: int = 4 * GB) -> None:
        self.free = free
        self.calls: list[str] = []

    def is_available(self) -> bool:
        """It is."""
        return True

    def measure_free_bytes(self) -> int:
        """As a test says."""
        return self.free

    def multiply_int8(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Do as `_metal.multiply_int8`."""
        self.calls.append("int8")
        assert x.dtype == scale.dtype
        return x @ (weight.to(x.dtype) * scale[:, None]).T

    def pack_int4(self, nibbles: Tensor) -> Tensor:
        """One value a byte, the even input from the high half."""
        assert nibbles.dtype == torch.uint8
        return torch.stack((nibbles >> 4, nibbles & 15), dim=-1).flatten(1)

    def multiply_int4(self, x: Tensor, packed: Tensor, group: int, scale_and_zero: Tensor) -> Tensor:
        """Do as `_metal.multiply_int4`."""
        self.calls.append("int4")
        assert x.dtype == scale_and_zero.dtype
        scale, zero = (part.T.repeat_interleave(group, dim=1) for part in scale_and_zero.unbind(dim=-1))
        return x @ ((packed.to(x.dtype) - 8) * scale + zero).T


class Missing(Processor):
    """A PyTorch without the products."""

    def multiply_int8(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Not there."""
        raise NotImplementedError("The operator 'aten::_weight_int8pack_mm' is not implemented for MPS\nmore")

    def pack_int4(self, nibbles: Tensor) -> Tensor:
        """Not there."""
        raise RuntimeError("no such operator")


class Wrong(Processor):
    """A PyTorch whose int4 takes the nibbles in the other order."""

    def pack_int4(self, nibbles: Tensor) -> Tensor:
        """Swapped."""
        return torch.stack((nibbles & 15, nibbles >> 4), dim=-1).flatten(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("mps") / "model", hidden_size=64)


def opened(directory: Path, scheme: str | None = None, dtype: str = "float16") -> TorchModel:
    """A model before its placement, quantised if a scheme is named."""
    return open_tiny(directory, scheme, dtype)


def kinds(model: TorchModel) -> set[type]:
    """Classes of the layers over stored integers."""
    known = (QuantizedLinear, ProductInt8Linear, ProductInt4Linear)
    return {type(module) for module in model.network.modules() if isinstance(module, known)}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (None, set()),
        ("int8", {ProductInt8Linear}),
        ("int4", {ProductInt8Linear, ProductInt4Linear}),  # the table is int8
        ("int4-g32", {ProductInt8Linear, ProductInt4Linear}),
    ],
)
def test_placed_models_answer_with_the_products(
    directory: Path, scheme: str | None, expected: set[type]
) -> None:
    """Every scheme gets layers over the device's products and answers as with plain PyTorch."""
    device = Processor()
    model = opened(directory, scheme)
    assert place_on_mps(model, Placement(("mps",)), device) is model
    assert kinds(model) == expected
    plain = opened(directory, scheme)
    place_on_mps(plain, Placement(("mps",), kernels="torch"), Processor())
    assert kinds(plain) == ({QuantizedLinear} if scheme else set())
    assert answer_and_close(model) == answer_and_close(plain)
    assert set(device.calls) == {"int8" if kind is ProductInt8Linear else "int4" for kind in expected}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [0, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_product_layers_agree_with_the_reference(bits: int, group_size: int, dtype: torch.dtype) -> None:
    """Packing, groups and bias give what dequantising gives; rows may have any leading shape."""
    if bits == 8 and group_size:
        group_size = 0
    torch.manual_seed(0)
    stored, scale = quantize_rows(torch.randn(64, 256), bits, group_size)
    layer = QuantizedLinear.from_stored(stored, scale, torch.randn(64), bits, group_size).to(dtype)
    layer.weight_scale.data = scale.float()
    made = make_product_layer(layer, Processor(), dtype)
    assert made is not None
    x = torch.randn(2, 3, 256).to(dtype)
    got, wanted = made(x), layer(x)
    assert got.dtype == dtype
    assert got.shape == (2, 3, 64)
    assert (got - wanted).float().norm() / wanted.float().norm() < 0.01


def test_packed_nibbles_are_the_stored_values() -> None:
    """Flipping the highest bits turns two signed nibbles into what the GPU's form holds."""
    stored, _ = quantize_rows(torch.randn(4, 8), 4)
    packed = Processor().pack_int4(stored.view(torch.uint8) ^ 0x88)
    assert torch.equal(packed.to(torch.int64) - 8, unpack_int4(stored).to(torch.int64))


def test_sizes_that_do_not_suit_keep_the_reference() -> None:
    """int4 of a few rows, or with columns that are no multiple of a group, is left as it is."""
    for rows, columns in ((30, 256), (64, 48)):
        layer = QuantizedLinear.from_stored(*quantize_rows(torch.randn(rows, columns), 4), None, 4)
        assert make_product_layer(layer, Processor(), torch.float16) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            Missing,
            "no int8 product there (The operator 'aten::_weight_int8pack_mm' is not implemented for MPS)",
        ),
        (Wrong, "int4 product is wrong there by"),
    ],
)
def test_products_are_tried_before_they_are_used(
    directory: Path, make: Callable[[], Processor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is missing or wrong is not used; a line says so, and the answer is right all the same."""
    model, plain = opened(directory, "int4"), opened(directory, "int4")
    place_on_mps(model, Placement(("mps",)), make())
    place_on_mps(plain, Placement(("mps",), kernels="torch"), Processor())
    assert ProductInt4Linear not in kinds(model)
    assert answer_and_close(model) == answer_and_close(plain)
    assert any(reason in record.getMessage() for record in caplog.records)
    again = opened(directory, "int4")
    with pytest.raises(DeviceError, match=containing("--kernels metal", "--kernels torch")):
        place_on_mps(again, Placement(("mps",), kernels="metal"), make())


def test_good_products_are_found_good() -> None:
    """The check passes where the products are right, in every dtype of the device."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert [check(bits, Processor(), dtype) for bits in (8, 4)] == ["", ""]


def test_what_does_not_fit_is_refused_before_reading(directory: Path) -> None:
    """The device's budget decides, and nothing was read."""
    model = opened(directory)
    with pytest.raises(OutOfMemoryError, match=r"tiny.*\d GB.*free"):
        place_on_mps(model, Placement(("mps",)), Processor(free=10**7))
    assert all(parameter.is_meta for parameter in model.network.parameters())


def test_what_goes_where_is_said(directory: Path) -> None:
    """One line says weights, KV cache and free memory."""
    said: list[str] = []
    place_on_mps(opened(directory), Placement(("mps",), notify=said.append), Processor())
    assert any("GB free on cpu: 16 conversations of 512 tokens" in line for line in said)


def test_pytorch_without_the_gpu_is_one_sentence(directory: Path) -> None:
    """A Mac whose PyTorch was built without Metal says what to install."""
    if torch.backends.mps.is_available():
        pytest.skip("this is a Mac with a working GPU")
    with pytest.raises(DeviceError, match="cannot use the Mac's GPU; install the build from PyPI"):
        place_on_mps(opened(directory), Placement(("mps",)))


def test_model_of_somebody_else_keeps_its_layers(directory: Path) -> None:
    """The products go into a copy that shares the integers; the owner's model is as it was."""
    own = opened(directory, "int8", "float32")
    own.materialize(torch.device("cpu"))
    kept = [type(module) for module in own.network.modules()]
    model = TorchModel("mine", own.family, own.config, own.network, own.tokenizer, torch.float32)
    plain = TorchModel("mine", own.family, own.config, own.network, own.tokenizer, torch.float32)
    plain.start(torch.device("cpu"))
    place_on_mps(model, Placement(("mps",)), Processor())
    assert kinds(model) == {ProductInt8Linear}
    assert [type(module) for module in own.network.modules()] == kept
    assert answer_and_close(model) == answer_and_close(plain)


def test_other_runtimes_models_are_declined() -> None:
    """A model that is none of the torch runtime's is not touched."""
    foreign = cast(LoadedModel, object())
    assert place_on_mps(foreign, Placement(("mps",))) is None
    assert quantize_model(foreign, QuantizationScheme(8)) is None


def test_only_one_module_names_the_device() -> None:
    """What cannot be run without a Mac is in `_metal` alone."""
    for module in (_placement, _products):
        names = {
            node.attr
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Attribute)
        }
        assert not names & {
            "mps",
            "_weight_int8pack_mm",
            "_weight_int4pack_mm",
            "_convert_weight_to_int4pack",
        }
    signatures = {name for name, _ in inspect.getmembers(Processor, inspect.isfunction) if name[0] != "_"}
    for name in signatures:
        assert inspect.signature(getattr(_metal, name)) == inspect.signature(getattr(Processor(), name))
