"""Placing models as on NVIDIA GPUs, with the processor in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from backend_cases import answer_and_close, open_tiny
from glm_backend_cuda import _placement
from glm_backend_cuda._executor import RecordedExecutor
from glm_backend_cuda._kernel_set import CudaKernels
from glm_backend_cuda._placement import place_on, place_on_cuda
from glm_runtime_torch.backends import installing, quantize_model
from glm_runtime_torch.model.device_map import find_device_map
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.language_model import LanguageModel
from glm_runtime_torch.network.parameters import copy_sharing_memory
from glm_runtime_torch.quantization import QuantizedLinear
from key_words import containing
from recorded_steps import RerunningRecorder, TensorAttention
from tiny_models import tiny_checkpoint
from torch import nn

from glm_core import ConfigError, DeviceError, OutOfMemoryError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

CPU = torch.device("cpu")
GB = 10**9
ONE = Placement(("cuda:0",), slots=2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("cuda") / "model", num_layers=4)


def opened(directory: Path, scheme: str | None = None, dtype: str = "float32") -> TorchModel:
    """A model before its placement, quantised if a scheme is named."""
    return open_tiny(directory, scheme, dtype)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("scheme", [None, "int8", "int4", "int4-g32"])
def test_placed_models_answer(directory: Path, scheme: str | None, kernels: str) -> None:
    """Every scheme gives the tokens of plain PyTorch, with recorded steps and without, in either kernels."""
    if kernels == "triton":
        pytest.importorskip("triton")  # runs in its interpreter here
    plain = opened(directory, scheme)
    plain.materialize(CPU)
    plain.start(CPU)
    wanted = answer_and_close(plain)
    recorder = RerunningRecorder()
    wish = Placement(("cuda:0",), slots=2, kernels=kernels)
    model = place_on(opened(directory, scheme), wish, {CPU: GB}, recorder=recorder)
    assert isinstance(model.engine.runner._executor, RecordedExecutor)
    assert answer_and_close(model) == wanted
    assert recorder.recorded == 1
    assert answer_and_close(place_on(opened(directory, scheme), wish, {CPU: GB})) == wanted


def test_what_goes_where_and_which_kernels_is_said(directory: Path) -> None:
    """What weights and KV cache take of what is free, and the kernels with their reason."""
    said: list[str] = []
    place_on(opened(directory), Placement(("cuda:0",), slots=2, notify=said.append), {CPU: GB}).close()
    assert any("GB of 1.0 GB free on cpu: 2 conversations of 512 tokens" in line for line in said)
    assert any(line.startswith("kernels: torch (") for line in said)


def test_what_does_not_fit_is_refused_before_reading(directory: Path) -> None:
    """Too little memory is found before a weight is read or a kernel chosen."""
    model = opened(directory)
    with pytest.raises(OutOfMemoryError, match="tiny needs"):
        place_on(model, ONE, {CPU: 10**7})
    assert all(parameter.is_meta for parameter in model.network.parameters())


def test_written_map_is_obeyed_or_refused(directory: Path) -> None:
    """Placement.device_map is read in the original's names; mistakes are found before reading."""
    meta = torch.device("meta")
    written = {"": "cpu", "transformer.layers.1": "meta"}
    model = opened(directory)
    place_on(model, Placement(("cpu", "meta"), written, slots=1), {CPU: GB, meta: GB})
    assert [device.type for device in find_device_map(model.network).list_block_devices(model.parts)] == [
        "cpu",
        "meta",
        "cpu",
        "cpu",
    ]
    assert model.info.devices == ("cpu", "meta")
    assert not isinstance(model.engine.runner._executor, RecordedExecutor)
    model.close()
    with pytest.raises(ConfigError, match="leaves out"):
        place_on(opened(directory), Placement(("cpu",), {"lm_head": "cpu"}), {CPU: GB})


class Shouting(nn.Module):
    """Stands for a kernel's layer."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer."""
        result: torch.Tensor = self.layer(x)
        return result


class ShoutingKernels(CudaKernels):
    """Puts `Shouting` in the place of every quantised layer."""

    def make_quantized_linear(self, layer: QuantizedLinear) -> nn.Module:
        """See `KernelSet.make_quantized_linear`."""
        return Shouting(layer)

    def make_tied_table(self, table: nn.Module, head: Any) -> tuple[None, nn.Module]:
        """See `KernelSet.make_tied_table`."""
        return None, Shouting(head)


@pytest.fixture
def shouting(monkeypatch: pytest.MonkeyPatch) -> None:
    attention: Any = TensorAttention()
    layers: Any = None  # never asked
    kernels = ShoutingKernels("kernels: for a test", layers, attention)
    monkeypatch.setattr(_placement, "choose_kernels", lambda *_: kernels)


def borrowed(directory: Path) -> tuple[TorchModel, LanguageModel]:
    """A model that somebody holds in memory, quantised to int4; and its network."""
    own = opened(directory, "int4")
    own.materialize(CPU)
    network = own.network.requires_grad_(False)
    return TorchModel("mine", own.family, own.config, network, own.tokenizer, torch.float32), network


@pytest.mark.usefixtures("shouting")
def test_model_of_somebody_else_keeps_its_layers(directory: Path) -> None:
    """Kernels go into a copy that shares the weights; the owner's model is as it was."""
    model, network = borrowed(directory)
    kinds = [type(module) for module in network.modules()]
    plain, _ = borrowed(directory)
    plain.start(CPU)
    network.train()
    place_on(model, ONE, {CPU: GB}, places=find_device_map(network))
    assert any(isinstance(module, Shouting) for module in model.network.modules())
    assert [type(module) for module in network.modules()] == kinds
    assert network.training
    assert not model.network.training
    weights = {value.data_ptr() for value in model.network.parameters()}
    assert weights == {value.data_ptr() for value in network.parameters()}
    assert answer_and_close(model) == answer_and_close(plain)


@pytest.mark.usefixtures("shouting")
def test_second_form_needs_memory(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where int4 weights cannot be held twice, the model answers with its own layers, and a line says so."""
    monkeypatch.setattr(installing, "SECOND_FORM_SHARE", 1e-9)
    model, network = borrowed(directory)
    place_on(model, ONE, {CPU: GB}, places=find_device_map(network))
    assert not any(isinstance(module, Shouting) for module in model.network.modules())
    assert len(answer_and_close(model)) == 6
    assert any("another form of its weights needs" in record.getMessage() for record in caplog.records)


def test_copy_shares_memory_and_ties(directory: Path) -> None:
    """The copy's parameters are the original's memory without gradients, and a tied head stays tied."""
    model = opened(directory)
    model.materialize(CPU)
    original: Any = model.network.requires_grad_(True)
    twin: Any = copy_sharing_memory(original)
    assert twin.lm_head.weight is twin.transformer.word_embeddings.weight
    assert twin.lm_head.weight.data_ptr() == original.lm_head.weight.data_ptr()
    assert not any(value.requires_grad for value in twin.parameters())
    assert all(value.requires_grad for value in original.parameters())
    twin.lm_head = nn.Identity()
    assert isinstance(original.lm_head, nn.Linear)


def test_hardware_that_pytorch_does_not_see(directory: Path) -> None:
    """A GPU that the driver has and this PyTorch has not is one sentence."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(DeviceError, match=containing(f"{count} NVIDIA GPUs", f"cuda:{count}", "glm devices")):
        place_on_cuda(opened(directory), Placement((f"cuda:{count}",)))


def test_other_runtimes_models_are_declined() -> None:
    """A model that is none of the torch runtime's is not touched."""
    foreign = cast(LoadedModel, object())
    assert place_on_cuda(foreign, ONE) is None
    assert quantize_model(foreign, QuantizationScheme(8)) is None


def test_model_that_is_partly_elsewhere_is_refused(directory: Path) -> None:
    """A borrowed model of which a part was left on the processor says what to call."""
    model, _ = borrowed(directory)
    with pytest.raises(DeviceError, match=containing("on cpu", "GPU", ".cuda()")):
        place_on_cuda(model, ONE)
