"""Choosing the kernels of a model: ``auto`` takes the fastest that can run here, and says why.

Nothing is imported at the top that may be missing: each kind of kernels is imported when it is chosen.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from glm_runtime_torch.backends import DecodeAttention

from glm_core import DeviceError

from ._executor import Recorder
from ._kernel_set import CudaKernels, QuantizedLayers

AUTO, TRITON, TORCH, CPM = "auto", "triton", "torch", "cpm"
LEAST_TRITON = (3, 3)  # older ones refuse products of fewer rows than tensor cores take, such as one
LEAST_CAPABILITY = (7, 5)  # Turing; the tests compile the kernels for it and for newer GPUs

_log = logging.getLogger("glm")


@dataclass(frozen=True)
class KernelFacts:
    """What the choice of kernels depends on.

    Attributes:
        device: type of the devices, such as ``cuda``.
        capability: the lowest compute capability among them; (0, 0) where there is none.
        triton: why Triton's kernels cannot run here; empty if they can.
        cpm: why those of cpm_kernels cannot; empty if they can or if nobody asked for them.
    """

    device: str
    capability: tuple[int, int]
    triton: str = ""
    cpm: str = ""


@dataclass(frozen=True)
class KernelChoice:
    """The kernels that were chosen.

    Attributes:
        name: ``triton``, ``torch`` or ``cpm``.
        reason: why these, as a part of a sentence.
        notice: why faster ones cannot run, for a warning; empty if these are the fastest.
    """

    name: str
    reason: str
    notice: str = ""

    @property
    def sentence(self) -> str:
        """A sentence that says what was chosen and why."""
        return f"kernels: {self.name} ({self.reason})"


def choose(wanted: str, facts: KernelFacts) -> KernelChoice:
    """Return the kernels to take.

    Args:
        wanted: ``auto``, ``triton``, ``torch`` or ``cpm``.
        facts: of the devices.

    Raises:
        DeviceError: the wanted ones do not exist or cannot run here.
    """
    if wanted == AUTO:
        if facts.device != "cuda":
            return KernelChoice(
                TORCH, f"the fused kernels are for NVIDIA GPUs, the model is on {facts.device}"
            )
        if not facts.triton:
            return KernelChoice(TRITON, "they multiply int8 and int4 without writing the weights out")
        return KernelChoice(
            TORCH, facts.triton, f"{facts.triton}; PyTorch's kernels are used, which are slower"
        )
    problems = {TRITON: facts.triton, TORCH: "", CPM: facts.cpm}
    if wanted not in problems:
        raise DeviceError(
            f"there are no kernels {wanted!r}; --kernels takes auto, {TRITON}, {TORCH} or {CPM}."
        )
    if problems[wanted]:
        raise DeviceError(
            f"--kernels {wanted} cannot be used: {problems[wanted]}; choose --kernels auto or torch."
        )
    return KernelChoice(wanted, "as asked for")


def choose_kernels(
    wanted: str, devices: Sequence[torch.device], dtype: torch.dtype, recorder: Recorder | None = None
) -> CudaKernels:
    """Return the kernels for a model on these devices; log a notice where faster ones cannot run.

    Args:
        wanted: see `choose`; empty means ``auto``.
        devices: that the model is on.
        dtype: that it computes in.
        recorder: see `CudaKernels`.

    Raises:
        DeviceError: see `choose`.
    """
    wanted = wanted or AUTO
    choice = choose(wanted, inspect_devices(wanted, devices))
    if choice.notice:
        _log.warning("%s", choice.notice)
    return CudaKernels(
        choice.sentence,
        make_layers(choice, dtype, devices),
        make_attention(choice),
        plain_dtype=dtype if choice.name == TRITON else None,
        recorder=recorder,
    )


def make_layers(
    choice: KernelChoice, dtype: torch.dtype, devices: Sequence[torch.device] = ()
) -> QuantizedLayers:
    """Return what makes layers of stored integers with chosen kernels."""
    if choice.name == TRITON:
        from ._layers import TritonLayers

        return TritonLayers(dtype)
    if choice.name == CPM:
        from ._cpm import CpmLayers, get_compiled_kernels

        return CpmLayers(dtype, get_compiled_kernels())
    from ._torch_layers import TorchLayers, find_products

    return TorchLayers(dtype, find_products(devices, dtype))


def make_attention(choice: KernelChoice) -> DecodeAttention:
    """Return the decode attention of chosen kernels."""
    if choice.name == TRITON:
        from ._triton_decode import TritonDecodeAttention

        return TritonDecodeAttention()
    from ._attention import TorchDeviceAttention

    return TorchDeviceAttention()


def inspect_devices(wanted: str, devices: Sequence[torch.device]) -> KernelFacts:
    """Look at the devices, and try those kernels that the answer to ``wanted`` depends on."""
    gpus = [device for device in devices if device.type == "cuda"]
    capability = min(map(torch.cuda.get_device_capability, gpus), default=(0, 0))
    kind = next((device.type for device in devices if device.type != "cuda"), "cuda")
    return KernelFacts(
        device=kind,
        capability=capability,
        triton=find_triton_problem(kind, capability, devices) if wanted in (AUTO, TRITON) else "",
        cpm=find_cpm_problem(kind, devices) if wanted == CPM else "",
    )


def find_triton_problem(kind: str, capability: tuple[int, int], devices: Sequence[torch.device]) -> str:
    """Return why Triton's kernels cannot run; empty if a trial on each device gave the right numbers."""
    problem = _find_import_problem()
    if problem:
        return problem
    if kind != "cuda":
        knobs = getattr(importlib.import_module("triton"), "knobs", None)
        interprets = knobs is not None and knobs.runtime.interpret
        return "" if interprets else f"Triton has no kernels for {kind}"
    if capability < LEAST_CAPABILITY:
        return (
            f"Triton needs a GPU of compute capability {_format_version(LEAST_CAPABILITY)}, this one has "
            f"{_format_version(capability)}"
        )
    from ._trial import try_kernels

    return next(filter(None, map(try_kernels, dict.fromkeys(devices))), "")


def find_cpm_problem(kind: str, devices: Sequence[torch.device]) -> str:
    """Return why our kernels cannot be compiled and launched through cpm_kernels; empty if they can."""
    if kind != "cuda":
        return f"cpm_kernels needs an NVIDIA GPU, the model is on {kind}"
    from ._cpm import find_problem

    return find_problem(devices)


def _find_import_problem() -> str:
    """Return why the installed Triton cannot be used; empty if it can."""
    try:
        triton = importlib.import_module("triton")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            return f"Triton cannot be imported ({error})"
        if sys.platform != "linux":
            return "Triton is published for Linux only"
        return "Triton is not installed (pip install triton)"
    except Exception as error:  # whatever a broken installation raises, PyTorch's kernels still run
        return f"Triton cannot be imported ({type(error).__name__}: {error})"
    version = str(getattr(triton, "__version__", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_TRITON:
        return f"Triton {version} is too old, {_format_version(LEAST_TRITON)} or newer is needed"
    return ""


def _format_version(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
