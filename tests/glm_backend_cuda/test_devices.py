"""Describing NVIDIA GPUs through a stand-in for the driver's library: no GPU, no driver, no torch needed."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from glm_backend_cuda import _devices, _nvml
from glm_backend_cuda._devices import TorchBuild, inspect_torch_build, list_devices, select_visible
from glm_backend_cuda._nvml import Driver, Gpu, NvmlError, read
from key_words import missing_words

WITH_CUDA = TorchBuild("2.13.0", has_cuda=True)
CARDS = (
    Gpu("NVIDIA GeForce RTX 2080", "GPU-aa11", 8 * 2**30, 7 * 2**30, (7, 5)),
    Gpu("NVIDIA RTX A6000", "GPU-bb22", 48 * 2**30, 47 * 2**30, (8, 6)),
    Gpu("NVIDIA H100", "GPU-bb33", 80 * 2**30, 79 * 2**30, (9, 0)),
)
DRIVER = Driver("560.35.03", CARDS)


class FakeLibrary:
    """The C functions of NVIDIA's management library over some cards.

    Args:
        cards: what is there.
        failing: function name to the status that it returns.
    """

    def __init__(self, cards: tuple[Gpu, ...], failing: dict[str, int] | None = None) -> None:
        self.cards = cards
        self.failing = failing or {}
        self.calls: list[str] = []

        def error_string(status: int) -> bytes:
            return b"Driver Not Loaded" if status == 9 else b""

        self.nvmlErrorString = error_string

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.failing:
                return self.failing[name]
            getattr(self, f"do_{name}", lambda *_: None)(*arguments)
            return 0

        if name.startswith("do_"):
            raise AttributeError(name)
        return call

    def do_nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self.cards)

    def do_nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> None:
        buffer.value = b"560.35.03"

    def do_nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> None:
        handle._obj.value = index.value + 1

    def do_nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> None:
        buffer.value = self.cards[handle.value - 1].name.encode()

    def do_nvmlDeviceGetUUID(self, handle: Any, buffer: Any, size: Any) -> None:
        buffer.value = self.cards[handle.value - 1].uuid.encode()

    def do_nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> None:
        card = self.cards[handle.value - 1]
        memory._obj.total, memory._obj.free = card.memory_bytes, card.free_memory_bytes

    def do_nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = self.cards[handle.value - 1].capability


def test_driver_is_read() -> None:
    """Name, UUID, memory and capability of every card, and the driver's version; the library is shut down."""
    library = FakeLibrary(CARDS)
    assert read(library) == DRIVER
    assert library.calls[0] == "nvmlInit_v2"
    assert library.calls[-1] == "nvmlShutdown"


def test_driver_that_refuses_says_why() -> None:
    """The driver's own words are passed on; a status without words by its number."""
    with pytest.raises(NvmlError, match="does not answer \\(Driver Not Loaded\\)"):
        read(FakeLibrary((), {"nvmlInit_v2": 9}))
    with pytest.raises(NvmlError, match="does not answer \\(error 15\\)"):
        read(FakeLibrary(CARDS, {"nvmlDeviceGetMemoryInfo": 15}))


def test_missing_library_means_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver's library is not there, the device is absent and says what to install or choose."""
    monkeypatch.setattr(_nvml, "LIBRARIES", ("libthere-is-no-such-library.so.1",))
    with pytest.raises(NvmlError, match="no NVIDIA driver is installed"):
        _nvml.load()
    (device,) = _devices.describe()
    assert (device.name, device.available) == ("cuda", False)
    assert "install the driver of your GPU" in device.reason
    assert "--device cpu" in device.reason


def test_cards_are_described() -> None:
    """Each card has its memory and what it computes in; bfloat16 from Ampere on, float16 first."""
    devices = list_devices(DRIVER, WITH_CUDA, {})
    assert [device.name for device in devices] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [device.dtypes for device in devices] == [
        ("float16", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float16", "bfloat16", "float32"),
    ]
    assert devices[1].label == "NVIDIA RTX A6000, compute capability 8.6, driver 560.35.03"
    assert (devices[0].memory_bytes, devices[0].free_memory_bytes) == (8 * 2**30, 7 * 2**30)
    assert all(device.available for device in devices)


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("-1", ()),
        ("1", (1,)),
        ("2,0", (2, 0)),
        ("2, 0", (2, 0)),
        ("0,7,1", (0,)),
        ("0,0", (0,)),
        ("GPU-aa11", (0,)),
        ("GPU-a,2", (0, 2)),
        ("GPU-bb", ()),
        ("GPU-zz,1", ()),
        ("MIG-1234", ()),
    ],
)
def test_visible_devices_are_those_of_the_driver(wanted: str | None, seen: tuple[int, ...]) -> None:
    """Numbers, UUIDs and their beginnings, the order, and the first that means nothing ends the list."""
    assert select_visible(CARDS, wanted) == tuple(CARDS[index] for index in seen)


def test_hidden_cards_are_explained() -> None:
    """An empty CUDA_VISIBLE_DEVICES is named as the reason, with its value."""
    (device,) = list_devices(DRIVER, WITH_CUDA, {"CUDA_VISIBLE_DEVICES": ""})
    assert device.reason.startswith("CUDA_VISIBLE_DEVICES='' hides the 3 GPUs of this machine")


def test_driver_without_cards() -> None:
    """A driver without a card is one sentence."""
    (device,) = list_devices(Driver("560.35.03", ()), WITH_CUDA, {})
    assert not missing_words(device.reason, "560.35.03", "no GPU", "--device cpu")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            TorchBuild("2.13.0+cpu", has_cuda=False),
            r"this PyTorch \(2\.13\.0\+cpu\) was built without CUDA: pip",
        ),
        (TorchBuild("", has_cuda=False), "PyTorch is not installed: pip install"),
    ],
)
def test_torch_that_cannot_use_the_card_says_what_to_install(build: TorchBuild, reason: str) -> None:
    """With a card and the wrong PyTorch, the command that installs the right one is named."""
    devices = list_devices(DRIVER, build, {})
    assert len(devices) == 3
    for device in devices:
        assert not device.available
        assert re.match(reason, device.reason)
        assert "--index-url https://download.pytorch.org/whl/cu" in device.reason


@pytest.mark.parametrize(
    ("line", "has_cuda"),
    [
        ("cuda: Optional[str] = '12.6'", True),
        ("cuda = None", False),
        ("cuda: str | None = None", False),
        ('cuda = "13.0"', True),
    ],
)
def test_torch_build_is_read_from_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, has_cuda: bool
) -> None:
    """What torch was built for is read without importing it."""
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\ndebug = False\n{line}\nhip = None\n")
    place = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: place)
    assert inspect_torch_build().has_cuda is has_cuda


def test_torch_without_files_is_judged_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no version module, the version's own tag decides; without torch nothing is claimed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert inspect_torch_build() == TorchBuild("2.13.0+cpu", has_cuda=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu126")
    assert inspect_torch_build().has_cuda

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert inspect_torch_build() == TorchBuild("", has_cuda=False)


def test_describing_imports_no_torch() -> None:
    """Asking what there is loads neither torch nor triton."""
    code = (
        "import sys\n"
        "from glm_backend_cuda import plugin\n"
        "plugin.describe_backend()\n"
        "print(sorted({'torch', 'triton', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_structures_are_those_of_the_header() -> None:
    """The library writes three numbers of eight bytes."""
    assert ctypes.sizeof(_nvml._Memory) == 24
