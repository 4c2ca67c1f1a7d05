"""Which kernels are taken, and what is said where they cannot run."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from glm_backend_cuda import _choice
from glm_backend_cuda._attention import TorchDeviceAttention
from glm_backend_cuda._choice import (
    KernelChoice,
    KernelFacts,
    choose,
    choose_kernels,
    find_triton_problem,
    inspect_devices,
)
from glm_runtime_torch.quantization import QuantizedLinear, quantize_rows
from key_words import containing, missing_words

from glm_core import DeviceError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
AMPERE = KernelFacts("cuda", (8, 6))


def test_auto_takes_triton_and_says_why() -> None:
    """Where it can run, without a warning."""
    choice = choose("auto", AMPERE)
    assert not missing_words(choice.sentence, "kernels: triton", "int8", "int4")
    assert choice.notice == ""


def test_auto_falls_back_on_torch_with_a_notice() -> None:
    """The notice says what is missing and what that costs."""
    choice = choose(
        "auto", KernelFacts("cuda", (8, 6), triton="Triton is not installed (pip install triton)")
    )
    assert choice.name == "torch"
    assert not missing_words(choice.notice, "pip install triton", "PyTorch's kernels", "slower")


def test_auto_takes_torch_away_from_gpus_without_a_warning() -> None:
    """A device of another type is nothing to mend."""
    choice = choose("auto", KernelFacts("cpu", (0, 0), triton="Triton has no kernels for cpu"))
    assert (choice.name, choice.notice) == ("torch", "")
    assert "on cpu" in choice.reason


@pytest.mark.parametrize("wanted", ["triton", "torch", "cpm"])
def test_what_is_asked_for_is_taken(wanted: str) -> None:
    """If it can run."""
    assert choose(wanted, AMPERE) == KernelChoice(wanted, "as asked for")


@pytest.mark.parametrize("wanted", ["triton", "cpm"])
def test_what_is_asked_for_and_cannot_run_is_refused(wanted: str) -> None:
    """One sentence with the reason and what to choose instead."""
    facts = KernelFacts("cuda", (8, 6), triton="it is too cold", cpm="it is too cold")
    expected = f"--kernels {wanted} cannot be used: it is too cold; choose --kernels auto or torch."
    with pytest.raises(DeviceError) as caught:
        choose(wanted, facts)
    assert str(caught.value) == expected


def test_unknown_kernels_are_refused() -> None:
    """The message lists those that exist."""
    with pytest.raises(
        DeviceError, match=containing("'fast'", "--kernels", "auto", "triton", "torch", "cpm")
    ):
        choose("fast", AMPERE)


def test_old_gpus_and_other_devices_have_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the capability that is there and the one that is needed."""
    pretend_triton(monkeypatch, __version__="3.7.1")
    assert not missing_words(find_triton_problem("cuda", (7, 0), [GPU]), "compute capability", "7.5", "7.0")
    assert "for cpu" in find_triton_problem("cpu", (0, 0), [CPU])


def test_a_gpu_is_tried_before_it_is_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first device on which the trial fails says why; each is tried once."""
    pretend_triton(monkeypatch, __version__="3.7.1")
    tried: list[torch.device] = []

    def try_kernels(device: torch.device) -> str:
        tried.append(device)
        return "no compiler" if device.index else ""

    monkeypatch.setattr("glm_backend_cuda._trial.try_kernels", try_kernels)
    assert find_triton_problem("cuda", (9, 0), [GPU, GPU]) == ""
    assert tried == [GPU]
    assert find_triton_problem("cuda", (9, 0), [GPU, torch.device("cuda", 1)]) == "no compiler"


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("linux", "Triton is not installed (pip install triton)"),
        ("win32", "Triton is published for Linux only"),
    ],
)
def test_missing_triton_is_told_by_system(
    monkeypatch: pytest.MonkeyPatch, platform: str, message: str
) -> None:
    """Not installed, or not to be had."""
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(sys, "platform", platform)
    assert find_triton_problem("cuda", (9, 0), [GPU]) == message


def test_old_and_broken_triton_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is too old is named; whatever an import raises becomes a sentence."""
    pretend_triton(monkeypatch, __version__="3.2.0")
    assert not missing_words(find_triton_problem("cuda", (9, 0), [GPU]), "Triton 3.2.0", "3.3")

    def broken(name: str) -> Any:
        raise RuntimeError("libtriton.so is from another world")

    monkeypatch.setattr(importlib, "import_module", broken)
    problem = find_triton_problem("cuda", (9, 0), [GPU])
    assert not missing_words(problem, "imported", "RuntimeError: libtriton.so is from another world")


def test_facts_are_those_of_the_weakest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what could be taken is looked at."""
    looked: list[str] = []

    def cpm(kind: str, devices: Sequence[torch.device]) -> str:
        looked.append("cpm")
        return "none"

    def triton(kind: str, capability: tuple[int, int], devices: Sequence[torch.device]) -> str:
        looked.append("triton")
        return f"{kind} {capability}"

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6 - device.index))
    monkeypatch.setattr(_choice, "find_triton_problem", triton)
    monkeypatch.setattr(_choice, "find_cpm_problem", cpm)
    devices = [GPU, torch.device("cuda", 1)]
    assert inspect_devices("auto", devices) == KernelFacts("cuda", (8, 5), triton="cuda (8, 5)")
    assert inspect_devices("cpm", devices) == KernelFacts("cuda", (8, 5), cpm="none")
    assert inspect_devices("torch", devices) == KernelFacts("cuda", (8, 5))
    assert looked == ["triton", "cpm"]


def test_fallback_is_logged_and_gives_layers_that_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is put into a model fits the choice."""
    monkeypatch.setattr(
        _choice, "inspect_devices", lambda wanted, devices: KernelFacts("cuda", (7, 0), triton="too old")
    )
    with caplog.at_level(logging.WARNING, logger="glm"):
        kernels = choose_kernels("", [CPU], torch.float32)
    assert caplog.messages == ["too old; PyTorch's kernels are used, which are slower"]
    assert kernels.description == "kernels: torch (too old)"
    assert isinstance(kernels.decode_attention, TorchDeviceAttention)
    layer = QuantizedLinear.from_stored(*quantize_rows(torch.randn(8, 16), 8), None, 8)
    assert kernels.make_quantized_linear(layer) is None  # the runtime's own stays


def test_triton_s_kernels_come_as_a_set() -> None:
    """Layers and attention of the same kind, in the interpreter even without a GPU."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from glm_backend_cuda._layers import TritonLinear
    from glm_backend_cuda._triton_decode import TritonDecodeAttention

    kernels = choose_kernels("triton", [CPU], torch.float32)
    assert kernels.description == "kernels: triton (as asked for)"
    assert isinstance(kernels.decode_attention, TritonDecodeAttention)
    layer = QuantizedLinear.from_stored(*quantize_rows(torch.randn(8, 16), 8), torch.randn(8), 8)
    made = kernels.make_quantized_linear(layer)
    assert isinstance(made, TritonLinear)
    x = torch.randn(2, 16)
    assert torch.allclose(made(x), layer(x), atol=1e-5)


def pretend_triton(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    """Let ``import triton`` find a module with these attributes, without its interpreter."""
    module = types.ModuleType("triton")
    interpret = types.SimpleNamespace(runtime=types.SimpleNamespace(interpret=False))
    vars(module).update({"knobs": interpret, **attributes})
    monkeypatch.setitem(sys.modules, "triton", module)
