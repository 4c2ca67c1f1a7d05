"""Kernels through the package cpm_kernels, which the original uses: its bindings with our own CUDA source."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.backends import QuantizedLinear, dequantize_matrix, freeze, make_quantized_table
from torch import Tensor, nn
from torch.nn import functional as F

from ._errors import format_first_line
from ._tensors import use_device_of

# cpm_kernels has compiled kernels for compute capabilities up to 8.6 only. Therefore just its bindings of
# NVRTC (the compiler) and of the driver are used, and this source is compiled for the GPU that is there.
SOURCE = Path(__file__).with_name("_cpm_kernels.cu")
FEW_ROWS = 8  # up to here reading the integers once for each row is faster than writing the matrix out
WARPS = 4  # of a block; each computes one output
EXTRACT_THREADS = 256  # of a block, which writes one row of the matrix
BINDINGS = "_glm_cpm_kernels_library"
INSTALL = "pip install 'glm-backend-cuda[cpm]'"


class CompiledKernels:
    """Our CUDA source, compiled once for each architecture and loaded once on each device that uses it.

    Args:
        library: ``cpm_kernels.library``, with the modules ``nvrtc`` and ``cuda``.
        capability: compute capability of a device.
        stream: handle of the device's current stream.
    """

    def __init__(
        self,
        library: Any,
        capability: Callable[[torch.device], tuple[int, int]] = torch.cuda.get_device_capability,
        stream: Callable[[torch.device], int] = lambda device: torch.cuda.current_stream(device).cuda_stream,
    ) -> None:
        self._library = library
        self._capability = capability
        self._stream = stream
        self._binaries: dict[tuple[int, int], bytes] = {}
        self._functions: dict[tuple[torch.device, str], Any] = {}

    def compile_binary(self, capability: tuple[int, int]) -> bytes:
        """Return the machine code for an architecture.

        Raises:
            RuntimeError: NVRTC is missing, does not know the architecture, or refuses the source.
        """
        if capability not in self._binaries:
            nvrtc = self._library.nvrtc
            program = nvrtc.nvrtcProgram()
            nvrtc.nvrtcCreateProgram(program, SOURCE.read_text("utf-8"), SOURCE.name, 0, [], [])
            try:
                options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}"]
                nvrtc.nvrtcCompileProgram(program, len(options), options)
                code = ctypes.create_string_buffer(nvrtc.nvrtcGetCUBINSize(program))
                nvrtc.nvrtcGetCUBIN(program, code)
            finally:
                nvrtc.nvrtcDestroyProgram(program)
            self._binaries[capability] = code.raw
        return self._binaries[capability]

    def launch(
        self, name: str, device: torch.device, grid: tuple[int, int], threads: int, arguments: Sequence[Any]
    ) -> None:
        """Start a kernel on a device's current stream.

        Args:
            name: of the kernel.
            device: where its tensors are.
            grid: numbers of blocks along two axes.
            threads: of a block.
            arguments: tensors, ``None`` for a null pointer, or integers of 32 bits.
        """
        # The driver takes addresses of arguments, so the arguments must live until the call returns.
        values = [_convert_argument(value) for value in arguments]
        pointers = [ctypes.addressof(value) for value in values]
        stream = self._stream(device)
        self._library.cuda.cuLaunchKernel(
            self._load_function(device, name), *grid, 1, threads, 1, 1, 0, stream, pointers
        )

    def _load_function(self, device: torch.device, name: str) -> Any:
        if (device, name) not in self._functions:
            cuda = self._library.cuda
            module = cuda.cuModuleLoadData(self.compile_binary(self._capability(device)))
            self._functions[device, name] = cuda.cuModuleGetFunction(module, name)
        return self._functions[device, name]


class CpmLinear(nn.Module):
    """A linear layer over stored integers in float16; for other dtypes PyTorch dequantises the matrix.

    Args:
        stored: see `glm_runtime_torch.backends.quantize_rows`; may be shared with an embedding.
        scale: likewise.
        bias: ``[N]`` or ``None``.
        bits: 8 or 4.
        group_size: inputs that share a scale; 0 = all of a row.
        kernels: that compute.
    """

    def __init__(
        self,
        stored: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        bits: int,
        group_size: int,
        kernels: CompiledKernels,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.shape[1] * (2 if bits == 4 else 1), stored.shape[0]
        self.bits, self.group_size = bits, group_size
        self.weight = freeze(stored)
        self.weight_scale = freeze(scale.float().contiguous())
        self.bias = None if bias is None else freeze(bias)
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in the dtype of ``x``."""
        rows = x.numel() // self.in_features
        needs_gradient = x.requires_grad and torch.is_grad_enabled()
        if needs_gradient or not rows or x.dtype != torch.float16:
            weight = dequantize_matrix(self.weight, self.weight_scale, self.bits, x.dtype, self.group_size)
            return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))
        with use_device_of(x):
            return self._multiply_few(x, rows) if rows <= FEW_ROWS else self._multiply_many(x)

    def extra_repr(self) -> str:
        """Return the sizes, for people who print the network."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}"

    def _multiply_few(self, x: Tensor, rows: int) -> Tensor:
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype, device=x.device)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        sizes = self.in_features, self.out_features, self.group_size or self.in_features
        self._kernels.launch(
            f"multiply_int{self.bits}",
            x.device,
            (-(-self.out_features // WARPS), rows),
            32 * WARPS,
            (x, self.weight, self.weight_scale, bias, y, *sizes),
        )
        return y

    def _multiply_many(self, x: Tensor) -> Tensor:
        weight = torch.empty(self.out_features, self.in_features, dtype=x.dtype, device=x.device)
        sizes = self.in_features, self.group_size or self.in_features
        self._kernels.launch(
            f"extract_int{self.bits}",
            x.device,
            (self.out_features, 1),
            EXTRACT_THREADS,
            (self.weight, self.weight_scale, weight, *sizes),
        )
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


class CpmLayers:
    """`glm_backend_cuda._kernel_set.QuantizedLayers` over these kernels.

    Args:
        dtype: that the model computes in; for another than float16 the runtime's layers stay.
        kernels: that compute.
    """

    def __init__(self, dtype: torch.dtype, kernels: CompiledKernels) -> None:
        self._dtype, self._kernels = dtype, kernels

    def make_linear(
        self, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int
    ) -> nn.Module:
        """Return a `CpmLinear`, or the runtime's layer for another dtype than float16."""
        if self._dtype != torch.float16:
            return QuantizedLinear.from_stored(stored, scale, bias, bits, group_size)
        return CpmLinear(stored, scale, bias, bits, group_size, self._kernels)

    def make_tied_table(
        self, stored: Tensor, scale: Tensor, bits: int, group_size: int
    ) -> tuple[nn.Module, nn.Module]:
        """Return the reference's embedding, and a head that shares its integers."""
        embedding, head = make_quantized_table(stored, scale, bits, group_size)
        assert isinstance(head, QuantizedLinear)
        return embedding, self.make_linear(head.weight, head.weight_scale, None, bits, group_size)


@cache
def get_compiled_kernels() -> CompiledKernels:
    """Return the kernels over the installed cpm_kernels; `find_problem` says beforehand whether they work."""
    return CompiledKernels(load_bindings())


def load_bindings() -> Any:
    """Import ``cpm_kernels.library`` under a name of our own and return it.

    The package's own ``__init__`` is not run: it needs pkg_resources, which newer Pythons lack, and asks
    every GPU for attributes that newer drivers do not know.

    Raises:
        ModuleNotFoundError: cpm_kernels is not installed.
    """
    package = importlib.util.find_spec("cpm_kernels")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("cpm_kernels is not installed", name="cpm_kernels")
    directory = Path(package.submodule_search_locations[0]) / "library"
    spec = importlib.util.spec_from_file_location(
        BINDINGS, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None
    assert spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    sys.modules[BINDINGS] = library
    try:
        spec.loader.exec_module(library)
    except BaseException:  # also an interrupt: a half-imported module must not be found later
        del sys.modules[BINDINGS]
        raise
    return library


def find_problem(devices: Sequence[torch.device]) -> str:
    """Return why the kernels cannot be compiled for these GPUs; empty if they were."""
    try:
        kernels = get_compiled_kernels()
    except ModuleNotFoundError as error:
        if error.name == "cpm_kernels":
            return f"cpm_kernels is not installed ({INSTALL})"
        return f"cpm_kernels cannot be imported ({error})"
    except Exception as error:  # importing it loads CUDA's libraries, which may be missing or broken
        return f"cpm_kernels cannot be imported ({format_first_line(error)})"
    try:
        for device in devices:
            kernels.compile_binary(torch.cuda.get_device_capability(device))
    except Exception as error:  # a missing library, an unknown architecture, a compiler's message
        return (
            f"the kernels cannot be compiled through cpm_kernels ({format_first_line(error)}); it looks for "
            "libnvrtc.so in CUDA_PATH/lib64, /usr/local/cuda/lib64 and on the loader's path"
        )
    return ""


def _convert_argument(value: Tensor | int | None) -> Any:
    if isinstance(value, int):
        return ctypes.c_int(value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())
