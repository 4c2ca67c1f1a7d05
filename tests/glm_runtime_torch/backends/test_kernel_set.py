"""What a backend of somebody else brings, put into the networks of every family."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import glm_runtime_torch.plugin
import pytest
import tiny_backend
import torch
from glm_runtime_torch.backends import (
    DecodeExecutor,
    EagerExecutor,
    KernelSet,
    KVCache,
    LanguageModel,
    QuantizedLinear,
    StepInput,
    TorchModel,
    install_kernels,
    place_in_host_memory,
    place_model,
    quantize_model,
)
from glm_runtime_torch.loading import open_source
from glm_testing import make_host
from tiny_backend import TransposedKernels, TransposedLinear
from tiny_models import ScriptedTokenizer, tiny_checkpoint
from tiny_networks import CONFIGS, NAMES, family_named, logits_of, prompt_of, tiny_network
from torch import Tensor, nn

import glm_core
from glm_core import ChatRequest, Message, OutOfMemoryError, Sampling, routing
from glm_core.records import ModelSource, Placement, QuantizationScheme

CPU = torch.device("cpu")
FREE = {CPU: 2**30}
ONE = Placement(("transposed",), slots=1)


def model_of(name: str) -> TorchModel:
    """A tiny model of a family that somebody holds in memory."""
    family = family_named(name)
    return TorchModel(
        name,
        family,
        family.read_config(CONFIGS[name]),
        tiny_network(name),
        ScriptedTokenizer(prompt_of(name)),
        torch.float32,
    )


def answer(model: TorchModel, count: int = 8) -> list[int]:
    """Greedy tokens; the model is closed."""
    request = ChatRequest((Message("user", "hello"),), Sampling(do_sample=False, max_new_tokens=count))
    tokens = [token for delta in model.stream(request) for token in delta.token_ids]
    model.close()
    return tokens


@pytest.mark.parametrize("scheme", [None, QuantizationScheme(8), QuantizationScheme(4)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_family_computes_with_the_kernels(name: str, scheme: QuantizationScheme | None) -> None:
    """No linear layer of torch or the runtime is left, and logits and answers are the reference's."""
    plain, ours = model_of(name), model_of(name)
    for model in (plain, ours):
        if scheme is not None:
            assert quantize_model(model, scheme) is model
    wanted = logits_of(plain.network, prompt_of(name))
    plain.start(CPU, slots=1)
    said: list[str] = []
    place_model(ours, dataclasses.replace(ONE, notify=said.append), FREE, TransposedKernels())
    kinds = {type(module) for module in ours.network.modules()}
    assert TransposedLinear in kinds
    assert not kinds & {nn.Linear, QuantizedLinear}
    assert "kernels: transposed" in said
    torch.testing.assert_close(logits_of(ours.network, prompt_of(name)), wanted, rtol=1e-4, atol=1e-4)
    assert answer(ours) == answer(plain)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_set_is_the_reference(name: str) -> None:
    """Kernels that bring nothing leave every module as it is."""
    network = tiny_network(name)
    before = list(network.modules())
    install_kernels(network, KernelSet())
    assert list(network.modules()) == before


def test_weights_in_training_stay_as_they_are() -> None:
    """A layer whose weights want a gradient is not replaced; the others are."""
    network = tiny_network("chatglm2")
    place = network.find_block_linears()[1]
    place.module.weight.requires_grad_(True)
    install_kernels(network, TransposedKernels())
    assert [left.name for left in network.find_block_linears()] == [place.name]


def test_layers_over_one_matrix_with_a_bias_stay() -> None:
    """Two layers that share weights cannot become one where a bias makes them differ."""
    first, second = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3).requires_grad_(False)
    second.weight = first.weight
    network = nn.ModuleList([first, second])
    install_kernels(network, TransposedKernels())
    assert list(network) == [first, second]


class Stepping(KernelSet):
    """Brings whole decode steps."""

    def __init__(self) -> None:
        self.planned: list[LanguageModel] = []
        self.steps = 0

    def make_executor(self, network: LanguageModel, cache: KVCache, device: torch.device) -> DecodeExecutor:
        """Plan once, from the network's parts."""
        self.planned.append(network)
        kernels = self

        class Counting(EagerExecutor):
            def decode(self, step: StepInput) -> Tensor:
                kernels.steps += 1
                return super().decode(step)

        return Counting(network, cache, device)


def test_whole_decode_steps_are_planned_once_from_the_network() -> None:
    """The executor gets the network that was placed, when its layers are in, and computes every step."""
    kernels, model = Stepping(), model_of("glm")
    place_model(model, ONE, FREE, kernels)
    assert kernels.planned == [model.network]
    answer(model, 5)
    assert kernels.steps == 4
    assert len(kernels.planned) == 1


class KeepsTwice(TransposedKernels):
    """Holds all weights in another form."""

    replaces_borrowed = False


class Heavy(TransposedKernels):
    """Says that its form takes more than there is."""

    def count_second_form_bytes(self, network: LanguageModel) -> int:
        """More than free."""
        return 2**40


@pytest.mark.parametrize("kernels", [KeepsTwice(), Heavy()], ids=lambda kernels: type(kernels).__name__)
def test_a_borrowed_model_is_not_held_twice(kernels: KernelSet) -> None:
    """Kernels with a form of their own leave the layers of a model that somebody else holds."""
    model = model_of("chatglm")
    owned = model.network
    place_model(model, ONE, FREE, kernels)
    assert not any(isinstance(module, TransposedLinear) for module in model.network.modules())
    assert model.network is not owned
    model.close()


def test_quantising_a_borrowed_model_leaves_the_owner_s_layers() -> None:
    """The copy is quantised; who holds the model may go on training it."""
    model = model_of("chatglm")
    owned = model.network
    before = [type(module) for module in owned.modules()]
    quantize_model(model, QuantizationScheme(8))
    assert model.is_quantized
    assert [type(module) for module in owned.modules()] == before


def test_what_does_not_fit_is_refused_before_reading(tmp_path: Path) -> None:
    """Both ways of placing refuse a model that is too large with nothing read."""
    directory = tiny_checkpoint(tmp_path / "model")
    for refuse in (
        lambda model: place_model(model, ONE, {CPU: 1000}, KernelSet()),
        lambda model: place_in_host_memory(model, ONE, KernelSet(), lambda: 1000),
    ):
        model = open_source(ModelSource("tiny", directory), "float32")
        assert model is not None
        with pytest.raises(OutOfMemoryError, match="tiny needs"):
            refuse(model)
        assert all(parameter.is_meta for parameter in model.network.parameters())


class Noting(TransposedKernels):
    """Counts the matrices that are still unread when each layer is made."""

    def __init__(self, network: LanguageModel) -> None:
        self.network = network
        self.sizes: list[int] = []

    def make_linear(self, layer: nn.Linear) -> nn.Module:
        """Weights of this layer are there, those of no later one."""
        assert not layer.weight.is_meta
        in_memory: Sequence[nn.Module] = [
            module
            for module in self.network.modules()
            if type(module) is nn.Linear and not module.weight.is_meta
        ]
        assert in_memory == [layer]
        self.sizes.append(layer.weight.numel())
        return super().make_linear(layer)


def test_matrices_are_read_one_by_one_the_largest_first(tmp_path: Path) -> None:
    """From files, memory never holds two forms of more than one matrix."""
    model = open_source(ModelSource("tiny", tiny_checkpoint(tmp_path / "model")), "float32")
    assert model is not None
    kernels = Noting(model.network)
    place_model(model, ONE, FREE, kernels)
    assert len(kernels.sizes) == 2 * 4 + 1
    assert kernels.sizes == sorted(kernels.sizes, reverse=True)
    model.close()


def test_the_whole_backend_answers_through_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a plugin beside the runtime, its device can be chosen by name, quantised or not."""
    directory = tiny_checkpoint(tmp_path / "model")
    host = make_host(columns=tiny_backend, torch=glm_runtime_torch.plugin)
    monkeypatch.setattr(routing, "get_default_host", lambda: host)
    answers = []
    for scheme in ("none", "int8"):
        with glm_core.load(directory, device="transposed", quantize=scheme) as model:
            answers.append(model.chat("hello", do_sample=False, max_new_tokens=4)[0])
            assert isinstance(model.loaded, TorchModel)
            network = model.loaded.network
        kinds = [type(module) for module in network.modules()]
        assert TransposedLinear in kinds
        assert nn.Linear not in kinds
    assert len(answers) == 2
