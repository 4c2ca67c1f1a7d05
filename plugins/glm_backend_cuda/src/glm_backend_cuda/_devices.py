"""Describing the NVIDIA GPUs that this process may use, without importing torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glm_core.records import DeviceInfo

from ._nvml import Driver, Gpu, NvmlError, load, read

VISIBLE = "CUDA_VISIBLE_DEVICES"
BFLOAT16_CAPABILITY = (8, 0)  # Ampere; older GPUs compute it in float32, slowly
# PyTorch's own index, because PyPI's wheels for Windows are without CUDA.
TORCH_WITH_CUDA = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
CHOOSE_CPU = "or choose --device cpu"


@dataclass(frozen=True)
class TorchBuild:
    """What the installed torch was built for.

    Attributes:
        version: such as ``2.13.0+cpu``; empty if torch is not installed.
        has_cuda: whether it can use an NVIDIA GPU.
    """

    version: str
    has_cuda: bool


def describe() -> tuple[DeviceInfo, ...]:
    """Return the GPUs of this machine, or one unavailable device whose reason says what is missing."""
    try:
        driver = read(load())
    except NvmlError as error:
        return (
            make_absent_device(f"{error}; install the driver of your GPU (nvidia.com/drivers), {CHOOSE_CPU}"),
        )
    return list_devices(driver, inspect_torch_build(), os.environ)


def list_devices(driver: Driver, torch: TorchBuild, environment: Mapping[str, str]) -> tuple[DeviceInfo, ...]:
    """Return devices for those GPUs of a driver that ``CUDA_VISIBLE_DEVICES`` lets this process see."""
    if not driver.gpus:
        return (make_absent_device(f"the NVIDIA driver {driver.version} sees no GPU; choose --device cpu"),)
    seen = select_visible(driver.gpus, environment.get(VISIBLE))
    if not seen:
        hidden = f"{VISIBLE}={environment.get(VISIBLE)!r} hides the {len(driver.gpus)} GPUs of this machine"
        return (make_absent_device(f"{hidden}; change or unset it, {CHOOSE_CPU}"),)
    reason = ""
    if not torch.version:
        reason = f"PyTorch is not installed: {TORCH_WITH_CUDA}"
    elif not torch.has_cuda:
        reason = f"this PyTorch ({torch.version}) was built without CUDA: {TORCH_WITH_CUDA}"
    return tuple(_describe_gpu(index, gpu, driver, reason) for index, gpu in enumerate(seen))


def make_absent_device(reason: str) -> DeviceInfo:
    """Return an unavailable device with the reason."""
    return DeviceInfo(
        "cuda",
        "cuda",
        "NVIDIA GPU",
        available=False,
        reason=reason,
        dtypes=("float16", "bfloat16", "float32"),
    )


def select_visible(gpus: Sequence[Gpu], wanted: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that a process sees, in its order, by the rules of the CUDA driver.

    Args:
        gpus: all of the machine.
        wanted: the value of ``CUDA_VISIBLE_DEVICES``: numbers or UUIDs with commas between them.
            A name of no GPU, or of one that was named before, ends the list.
    """
    if wanted is None:
        return tuple(gpus)
    found: list[Gpu] = []
    for name in wanted.split(","):
        gpu = _find_gpu(gpus, name.strip())
        if gpu is None or gpu in found:
            break
        found.append(gpu)
    return tuple(found)


def inspect_torch_build() -> TorchBuild:
    """Read what the installed torch was built for from its files, because importing it takes seconds."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return TorchBuild("", has_cuda=False)
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        path = Path(place) / "version.py"
        if path.is_file():
            return TorchBuild(version, has_cuda=_says_cuda(path.read_text("utf-8", errors="replace")))
    return TorchBuild(version, has_cuda="+cpu" not in version)


def _says_cuda(version_module: str) -> bool:
    """Return whether torch's ``version.py`` names a version of CUDA."""
    found = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", version_module, re.MULTILINE)
    return found is not None and found[1].strip().strip("'\"") not in ("None", "")


def _find_gpu(gpus: Sequence[Gpu], name: str) -> Gpu | None:
    if re.fullmatch(r"\d+", name):
        return gpus[int(name)] if int(name) < len(gpus) else None
    matching = [gpu for gpu in gpus if name.startswith("GPU-") and gpu.uuid.startswith(name)]
    return matching[0] if len(matching) == 1 else None


def _describe_gpu(index: int, gpu: Gpu, driver: Driver, reason: str) -> DeviceInfo:
    has_bfloat16 = gpu.capability >= BFLOAT16_CAPABILITY
    version = ".".join(map(str, gpu.capability))
    return DeviceInfo(
        name=f"cuda:{index}",
        type="cuda",
        label=f"{gpu.name}, compute capability {version}, driver {driver.version}",
        available=not reason,
        reason=reason,
        memory_bytes=gpu.memory_bytes,
        free_memory_bytes=gpu.free_memory_bytes,
        dtypes=("float16", *(("bfloat16",) if has_bfloat16 else ()), "float32"),
        dtype_reason="ChatGLM's weights are published in it, and every NVIDIA GPU multiplies it fast",
    )
