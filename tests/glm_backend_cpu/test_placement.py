"""Models of the torch runtime with this backend's layers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from child_process import run
from glm_backend_cpu import _placement
from glm_backend_cpu._kernel_set import NativeKernels
from glm_backend_cpu._layers import NativeEmbedding, NativeLinear, NativeQuantizedLinear
from glm_backend_cpu._native import Native, NativeState
from glm_backend_cpu._norm import NativeLayerNorm
from glm_backend_cpu._torch_layers import TorchKernels
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.backends import WeightOnlyInt8Linear, install_kernels, quantize_model
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.quantization import QuantizedLinear, quantize_in_place
from key_words import containing
from torch import Tensor, nn

import glm_core
from glm_core.records import ModelSource, Placement, QuantizationScheme

CONFIG = ChatGLMConfig(
    vocab_size=90,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    inner_hidden_size=128,
    mask_token_id=80,
    gmask_token_id=81,
    bos_token_id=82,
    eos_token_id=83,
)
QUESTION = "How do I quantise a model?"


def network(dtype: torch.dtype = torch.float32) -> ChatGLM:
    """A random network that nobody trains."""
    torch.manual_seed(0)
    return ChatGLM(CONFIG).requires_grad_(False).eval().to(dtype)


def logits(model: nn.Module) -> Tensor:
    """Of one prompt."""
    prompt = [5, 6, 7, 81, 82]
    positions = model.find_layout(prompt).compute_position_ids(0, len(prompt)).unsqueeze(0)
    with torch.inference_mode():
        found: Tensor = model(torch.tensor([prompt]), positions, None)
    return found


def kinds(model: nn.Module) -> set[type[nn.Module]]:
    """Classes of a network's innermost modules."""
    return {type(module) for module in model.modules() if not list(module.children())}


def test_float_networks_get_native_layers(fastest: Native) -> None:
    """Everything that multiplies or normalises is replaced, the table is kept once, logits stay."""
    model = network()
    wanted, size = logits(model), sum(parameter.nbytes for parameter in model.parameters())
    install_kernels(model, NativeKernels(fastest, torch.float32))
    assert kinds(model) == {NativeLinear, NativeEmbedding, NativeLayerNorm}
    assert torch.allclose(logits(model), wanted, atol=2e-4, rtol=1e-4)
    assert sum(parameter.nbytes for parameter in model.parameters()) < 1.2 * size


@pytest.mark.parametrize("scheme", ["int8", "int4", "int4-g32"])
def test_stored_networks_get_native_layers(fastest: Native, scheme: str) -> None:
    """Layers of a pre-quantised checkpoint, its tied table too, are replaced by packed ones."""
    model, parsed = network(), QuantizationScheme.parse(scheme)
    quantize_in_place(model, parsed, embeddings=parsed)
    wanted = logits(model)
    install_kernels(model, NativeKernels(fastest, torch.float32, 0))
    assert kinds(model) == {NativeQuantizedLinear, NativeEmbedding, NativeLayerNorm}
    assert model.lm_head.packed is model.transformer.word_embeddings.packed
    assert torch.allclose(logits(model), wanted, atol=2e-4, rtol=1e-4)


def test_weights_in_training_are_left_alone(fastest: Native) -> None:
    """What wants a gradient keeps torch's layers and its training."""
    model = ChatGLM(CONFIG)
    before = kinds(model)
    install_kernels(model, NativeKernels(fastest, torch.float32))
    assert kinds(model) == before


def test_largest_matrix_is_read_and_packed_first(fastest: Native) -> None:
    """Each matrix is read when its turn comes, the largest first, so memory never holds two forms of all."""
    model = network()
    seen: list[tuple[int, int]] = []

    def read(modules: Sequence[nn.Module]) -> None:
        weights = [module.weight for module in modules if not isinstance(module, nn.LayerNorm)]
        packed = sum(isinstance(module, NativeLinear) for module in model.modules())
        seen.extend((weights[0].numel(), packed) for _ in weights[:1])

    install_kernels(model, NativeKernels(fastest, torch.float32), read=read)
    sizes = [size for size, _ in seen]
    assert sizes == sorted(sizes, reverse=True)
    assert [packed for _, packed in seen] == list(range(len(seen)))


def test_model_of_somebody_else_keeps_its_layers(fastest: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that a program holds itself is answered with as it is; its owner may save or train it."""
    monkeypatch.setattr(_placement, "get_native", lambda: fastest)
    with glm_core.load("demo", device="cpu") as own:
        source: Any = own._model
        borrowed = TorchModel(
            "mine", source.family, source.config, network(), source.tokenizer, torch.float32
        )
    before = kinds(borrowed.network)
    _placement.place_on_cpu(borrowed, Placement(("cpu",)))
    assert kinds(borrowed.network) == before
    borrowed.close()


def test_torch_layers_replace_the_reference_ones() -> None:
    """Without the library, stored blocks get torch's kernels; the tied table stays."""
    model = network(torch.bfloat16)
    quantize_in_place(model, QuantizationScheme(8), embeddings=QuantizationScheme(8))
    wanted = logits(model)
    install_kernels(model, TorchKernels(torch.bfloat16))
    assert WeightOnlyInt8Linear in kinds(model)
    assert type(model.lm_head) is QuantizedLinear
    assert (logits(model) - wanted).float().norm() / wanted.float().norm() < 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("scheme", ["none", "int8", "int4-g32"])
def test_placed_model_answers(fastest: Native, dtype: str, scheme: str) -> None:
    """The demo model answers in every dtype and scheme on this backend's layers."""
    with glm_core.load("demo", device="cpu", dtype=dtype, quantize=scheme) as model:
        answer, _ = model.chat(QUESTION, do_sample=False, max_new_tokens=8)
    assert "Quantising" in answer


def test_missing_library_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the library a model still answers, and one line says what computes instead and why."""
    monkeypatch.setattr(_placement, "get_native", lambda: None)
    monkeypatch.setattr(
        _placement, "find_native", lambda: NativeState(None, "native kernels: none; torch's own are used")
    )
    with glm_core.load("demo", device="cpu", quantize="int4") as model:
        answer, _ = model.chat(QUESTION, do_sample=False, max_new_tokens=8)
    assert answer
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["native kernels: none; torch's own are used"]


def placed_with(kernels: str) -> TorchModel:
    """The demo model in int8 and bfloat16, placed with the kernels that a user chose."""
    directory = glm_core.resolve_model("demo")
    model = open_source(ModelSource("demo", Path(str(directory))), "bfloat16")
    assert isinstance(model, TorchModel)
    quantize_model(model, QuantizationScheme(8))
    _placement.place_on_cpu(model, Placement(("cpu",), kernels=kernels))
    return model


def test_kernels_are_those_that_were_asked_for(fastest: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    """--kernels torch leaves the library out, native and auto use it."""
    monkeypatch.setattr(_placement, "get_native", lambda: fastest)
    found = {}
    for kernels in ("torch", "native", "auto"):
        model = placed_with(kernels)
        found[kernels] = kinds(model.network)
        model.close()
    assert WeightOnlyInt8Linear in found["torch"]
    assert not found["torch"] & {NativeLinear, NativeQuantizedLinear, NativeEmbedding, NativeLayerNorm}
    assert found["native"] == found["auto"] == {NativeQuantizedLinear, NativeEmbedding, NativeLayerNorm}


def test_native_kernels_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """--kernels native without the library says why there is none and what to choose; auto goes on."""
    monkeypatch.setattr(_placement, "get_native", lambda: None)
    monkeypatch.setattr(
        _placement, "find_native", lambda: NativeState(None, "native kernels: none; no compiler")
    )
    with pytest.raises(
        glm_core.DeviceError, match=containing("--kernels native", "no compiler", "--kernels torch")
    ):
        placed_with("native")
    placed_with("auto").close()


@pytest.mark.parametrize(
    ("device_map", "error", "word"),
    [
        ({"transformer.layer": "cpu", "": 0}, glm_core.ConfigError, "transformer.layers"),
        ({"lm_head": "cpu"}, glm_core.ConfigError, "leaves out"),
        ({"": 0, "lm_head": 1}, glm_core.DeviceError, "cpu:1"),
    ],
    ids=["unknown name", "incomplete", "another device"],
)
def test_wrong_device_maps_are_refused_before_anything_is_read(
    device_map: dict[str, str | int], error: type[Exception], word: str
) -> None:
    """That there is one place only lets no mistake in a map go unnoticed."""
    directory = glm_core.resolve_model("demo")
    model = open_source(ModelSource("demo", Path(str(directory))), "float32")
    assert isinstance(model, TorchModel)
    with pytest.raises(error, match=word):
        _placement.place_on_cpu(model, Placement(("cpu",), device_map))
    assert all(parameter.is_meta for parameter in model.network.parameters())
    _placement.place_on_cpu(model, Placement(("cpu",), {"": 0, "lm_head": "cpu"}))
    model.close()


def test_threads_follow_the_weights(fastest: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library gets as many threads as torch: by size, or what OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    monkeypatch.setattr(_placement, "get_native", lambda: fastest)
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        _placement.set_threads(2**33)
        assert fastest.threads == torch.get_num_threads() == _placement.choose_num_threads(2**33)
        _placement.set_threads(2**20)
        assert fastest.threads == torch.get_num_threads() == 1
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        _placement.set_threads(2**20)
        assert fastest.threads == 2
    finally:
        torch.set_num_threads(before)


def test_model_is_placed_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, quantised blocks compute with torch's kernels and the model still answers."""
    monkeypatch.setattr(_placement, "get_native", lambda: None)
    directory = glm_core.resolve_model("demo")
    model = open_source(ModelSource("demo", Path(str(directory))), "bfloat16")
    assert isinstance(model, TorchModel)
    quantize_model(model, QuantizationScheme(8))
    _placement.place_on_cpu(model, Placement(("cpu",)))
    assert WeightOnlyInt8Linear in kinds(model.network)
    assert not kinds(model.network) & {NativeLinear, NativeQuantizedLinear}
    model.close()


def test_chat_works_without_the_library() -> None:
    """``kernels="torch"`` answers as well, in a process of its own."""
    code = (
        "import glm_core\n"
        "with glm_core.load('demo', quantize='int4', kernels='torch') as model:\n"
        f"    print(model.chat({QUESTION!r}, do_sample=False)[0])"
    )
    environment = {"HF_HUB_OFFLINE": "1"}
    done = run(sys.executable, "-c", code, environment=environment)
    assert "Quantising" in done.stdout
