"""Kernels through cpm_kernels: the guard, the launches, and the CUDA source run on the processor."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_cases import random_matrix
from glm_backend_cuda import _cpm
from glm_backend_cuda._choice import find_cpm_problem
from glm_backend_cuda._cpm import FEW_ROWS, SOURCE, CompiledKernels, CpmLayers, CpmLinear
from glm_runtime_torch.quantization import QuantizedLinear, dequantize_rows
from key_words import missing_words

GPU = torch.device("cuda", 0)
HOST = Path(__file__).parent.parent / "support" / "cuda_on_the_host.h"
SIGNATURES = {"extract": "PPPii", "multiply": "PPPPPiii"}
FORMATS = ((8, 0), (4, 0), (4, 32))


class FakeNvrtc:
    """Stands in for ``cpm_kernels.library.nvrtc``; its machine code is the options."""

    nvrtcProgram = ctypes.c_void_p  # noqa: N815

    def __init__(self) -> None:
        self.compiled: list[list[str]] = []
        self.source = ""
        self.destroyed = 0

    def nvrtcCreateProgram(self, program: Any, source: str, *rest: Any) -> None:
        """Keep the source."""
        self.source = source

    def nvrtcCompileProgram(self, program: Any, count: int, options: list[str]) -> None:
        """Keep the options; refuse what no compiler knows."""
        assert count == len(options)
        if options == ["--gpu-architecture=sm_35"]:
            raise RuntimeError("NVRTC Error: NVRTC_ERROR_INVALID_OPTION\nand more")
        self.compiled.append(options)

    def nvrtcGetCUBINSize(self, program: Any) -> int:
        """Bytes of the code."""
        return len(self.compiled[-1][0])

    def nvrtcGetCUBIN(self, program: Any, buffer: Any) -> None:
        """Write the code."""
        buffer.raw = self.compiled[-1][0].encode()

    def nvrtcDestroyProgram(self, program: Any) -> None:
        """Count."""
        self.destroyed += 1


class FakeDriver:
    """Stands in for ``cpm_kernels.library.cuda``.

    Args:
        library: kernels that were built for the processor; without, launches are only kept.
    """

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        self.library = library
        self.loaded: list[bytes] = []
        self.launches: list[tuple[Any, ...]] = []

    def cuModuleLoadData(self, code: bytes) -> str:
        """Keep the code."""
        self.loaded.append(code)
        return "module"

    def cuModuleGetFunction(self, module: str, name: str) -> str:
        """The name stands for the function."""
        assert module == "module"
        return name

    def cuLaunchKernel(self, function: str, *rest: Any) -> None:
        """Keep the launch, and run it where there is a library."""
        self.launches.append((function, *rest[:8]))
        kinds = {"P": ctypes.c_void_p, "i": ctypes.c_int}
        signature = SIGNATURES[function.split("_")[0]]
        values = [kinds[kind].from_address(at) for kind, at in zip(signature, rest[8], strict=True)]
        if self.library is not None:
            getattr(self.library, f"launch_{function}")(*rest[0:2], rest[3], *values)


def kernels_over(driver: FakeDriver) -> CompiledKernels:
    """Kernels for a GPU of capability 8.6 with a stream that is 77."""
    library = types.SimpleNamespace(nvrtc=FakeNvrtc(), cuda=driver)
    return CompiledKernels(library, capability=lambda device: (8, 6), stream=lambda device: 77)


@pytest.fixture(scope="module")
def on_the_host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA source built for the processor, with a thread for each thread of a block."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no g++ to build the CUDA source with")
    directory = tmp_path_factory.mktemp("cuda")
    source = SOURCE.read_text("utf-8")
    source, halves = re.subn(r'asm\("cvt.*"=f"\((\w+)\) : "h"\((\w+)\)\);', r"\1 = from_bits(\2);", source)
    source, floats = re.subn(r'asm\("cvt.*"=h"\((\w+)\) : "f"\((\w+)\)\);', r"\1 = to_bits(\2);", source)
    assert (halves, floats) == (1, 1)
    (directory / "kernels.cpp").write_text(f'#include "{HOST}"\n{source}\n{LAUNCHERS}', "utf-8")
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-mf16c", "kernels.cpp"]
    subprocess.run([*command, "-o", "kernels.so"], cwd=directory, check=True, timeout=120)
    return ctypes.CDLL(str(directory / "kernels.so"))


LAUNCHERS = "\n".join(
    f"""extern "C" void launch_{name}_int{bits}(int x, int y, int threads, {parameters}) {{
    run_blocks(x, y, threads, [=] {{ {name}_int{bits}({arguments}); }});
}}"""
    for bits in (8, 4)
    for name, parameters, arguments in (
        (
            "extract",
            "signed char *a, float *b, half_bits *c, int d, int e",
            "a, b, c, d, e",
        ),
        (
            "multiply",
            "half_bits *a, signed char *b, float *c, half_bits *d, half_bits *e, int f, int g, int h",
            "a, b, c, d, e, f, g, h",
        ),
    )
)


@pytest.mark.parametrize("rows", [1, 3, FEW_ROWS + 1])
@pytest.mark.parametrize(("bits", "group_size"), FORMATS)
def test_source_computes_what_the_reference_does(
    on_the_host: ctypes.CDLL, bits: int, group_size: int, rows: int
) -> None:
    """Both kernels of each format, with and without a bias, for sizes that fill no block."""
    integers, scale, bias = random_matrix(11, 352, bits, group_size)
    kernels = kernels_over(FakeDriver(on_the_host))
    weight = dequantize_rows(integers, scale, bits, torch.float64, group_size)
    x = torch.randn(rows, 352).half()
    for offset in (bias, None):
        found = CpmLinear(integers, scale, offset, bits, group_size, kernels)(x)
        wanted = x.double() @ weight.T + (0 if offset is None else offset.double())
        assert found.dtype == torch.float16
        assert (found.double() - wanted).norm() < 2e-3 * wanted.norm()


def test_odd_numbers_of_columns_are_right(on_the_host: ctypes.CDLL) -> None:
    """The last columns, which are fewer than eight."""
    integers, scale, _ = random_matrix(5, 37, 8)
    layer = CpmLinear(integers, scale, None, 8, 0, kernels_over(FakeDriver(on_the_host)))
    wanted = dequantize_rows(integers, scale, 8, torch.float64).T
    for eye in (torch.eye(37)[:7], torch.eye(37)):
        assert (layer(eye.half()).double() - wanted[: len(eye)]).abs().max() < 2e-3


def test_launches_have_the_arguments_of_the_source() -> None:
    """Grid, block, stream, pointers and sizes; the code is loaded once and is that of the GPU."""
    driver = FakeDriver()
    kernels = kernels_over(driver)
    integers, scale, bias = random_matrix(10, 64, 4, 32)
    layer = CpmLinear(integers, scale, bias, 4, 32, kernels)
    layer(torch.zeros(2, 1, 64).half())
    layer(torch.zeros(FEW_ROWS + 1, 64).half())
    assert driver.launches == [
        ("multiply_int4", 3, 2, 1, 128, 1, 1, 0, 77),
        ("extract_int4", 10, 1, 1, 256, 1, 1, 0, 77),
    ]
    assert driver.loaded == [b"--gpu-architecture=sm_86"] * 2
    nvrtc = kernels._library.nvrtc
    assert nvrtc.compiled == [["--gpu-architecture=sm_86"]]
    assert nvrtc.destroyed == 1
    for name, signature in SIGNATURES.items():
        for bits in (8, 4):
            found = re.search(rf"__global__ void {name}_int{bits}\(([^)]*)\)", nvrtc.source)
            assert found is not None
            assert "".join("P" if "*" in part else "i" for part in found[1].split(",")) == signature


def test_other_dtypes_and_gradients_are_left_to_torch() -> None:
    """Nothing is launched; the results are the reference's."""
    driver = FakeDriver()
    integers, scale, bias = random_matrix(10, 64, 4)
    reference = QuantizedLinear.from_stored(integers, scale, bias.float(), 4)
    layer = CpmLinear(integers, scale, bias, 4, 0, kernels_over(driver))
    x = torch.randn(3, 64)
    assert torch.allclose(layer(x), reference(x))
    graded = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(layer(graded).square().sum(), graded)
    (wanted,) = torch.autograd.grad(reference(graded).square().sum(), graded)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert driver.launches == []
    assert type(CpmLayers(torch.bfloat16, kernels_over(driver)).make_linear(integers, scale, bias, 4, 0)) is (
        QuantizedLinear
    )


def test_tied_table_is_in_memory_once() -> None:
    """The head shares the embedding's integers."""
    integers, scale, _ = random_matrix(10, 64, 8)
    embedding, head = CpmLayers(torch.float16, kernels_over(FakeDriver())).make_tied_table(
        integers, scale, 8, 0
    )
    assert isinstance(head, CpmLinear)
    assert embedding.weight is head.weight
    assert str(head) == "CpmLinear(64, 10, bits=8)"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``cpm_kernels`` that breaks where it is imported as a whole."""
    library = tmp_path / "cpm_kernels" / "library"
    library.mkdir(parents=True)
    (library.parent / "__init__.py").write_text("import pkg_resources_that_no_setuptools_has\n")
    (library / "__init__.py").write_text("from . import cuda, nvrtc\n")
    (library / "cuda.py").write_text("")
    (library / "nvrtc.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in list(sys.modules):
        if name.startswith(("cpm_kernels", _cpm.BINDINGS)):
            monkeypatch.delitem(sys.modules, name)
    _cpm.get_compiled_kernels.cache_clear()
    yield library
    _cpm.get_compiled_kernels.cache_clear()
    for name in list(sys.modules):
        if name.startswith(_cpm.BINDINGS):
            del sys.modules[name]


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clause, which `choose` makes a sentence of."""
    _cpm.get_compiled_kernels.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not missing_words(_cpm.find_problem([GPU]), "not installed", "pip install 'glm-backend-cuda[cpm]'")


def test_only_the_bindings_are_imported(package: Path) -> None:
    """Not the package around them, which needs pkg_resources and asks every GPU for old attributes."""
    assert _cpm.load_bindings().nvrtc.__name__ == f"{_cpm.BINDINGS}.nvrtc"


@pytest.mark.parametrize("error", ["RuntimeError('Unknown platform: darwin')", "OSError('no libcuda')"])
def test_bindings_that_cannot_be_imported_are_a_reason(package: Path, error: str) -> None:
    """Whatever they raise."""
    (package / "cuda.py").write_text(f"raise {error}\n")
    kind, _, text = error.partition("(")
    assert not missing_words(_cpm.find_problem([GPU]), "imported", f"{kind}: {text[1:-2]}")


def test_failing_compilation_is_a_reason(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of the message, and where NVRTC is looked for; a GPU that is known has none."""
    library = types.SimpleNamespace(nvrtc=FakeNvrtc(), cuda=FakeDriver())
    monkeypatch.setattr(_cpm, "load_bindings", lambda: library)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert find_cpm_problem("cuda", [GPU]) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (3, 5))
    problem = find_cpm_problem("cuda", [GPU])
    assert not missing_words(problem, "NVRTC_ERROR_INVALID_OPTION", "libnvrtc.so", "CUDA_PATH/lib64")
    assert "\n" not in problem
    assert library.nvrtc.destroyed == 2


def test_other_devices_have_no_such_kernels() -> None:
    """Nothing is imported for them."""
    assert not missing_words(find_cpm_problem("cpu", [torch.device("cpu")]), "NVIDIA GPU", "on cpu")
