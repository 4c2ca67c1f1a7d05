"""Building the kernel library at installation, and going without it."""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "plugins" / "glm_backend_cpu"
# The sanitizer build is the same sources, less optimised so that it is soon done.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g1")
KERNEL_TESTS = ("test_packed.py", "test_attention.py", "test_norm.py")

WORKING = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo compiled > "$2"
"""
FAILING = """#!/bin/sh
echo 'some.cpp: error: cannot compile' >&2
exit 1
"""
WITHOUT_WIDE_VECTORS = """#!/bin/sh
case "$*" in *avx512*) exit 1;; esac
while [ "$1" != -o ]; do shift; done
echo "$*" > "$2"
"""


def make_wheel(folder: Path, **environment: str) -> tuple[Path, str]:
    """Build the plugin's wheel with a made-up environment; the wheel and what pip said."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PATH", "CXX")}
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-v"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(PROJECT)],
        capture_output=True,
        text=True,
        env=kept | environment,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, done.stdout + done.stderr


def compiler(folder: Path, script: str) -> Path:
    """A program that stands in for a C++ compiler."""
    path = folder / "compiler"
    path.write_text(script)
    path.chmod(0o755)
    return path


def test_without_a_compiler_the_wheel_is_pure(tmp_path: Path) -> None:
    """Installation succeeds, fits every machine and says what is missing."""
    wheel, said = make_wheel(tmp_path, PATH="")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in zipfile.ZipFile(wheel).namelist())
    assert "no native kernels: no C++ compiler was found" in said


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in compilers are shell scripts")
def test_a_failing_compiler_leaves_a_pure_wheel(tmp_path: Path) -> None:
    """Its first error is passed on and nothing else happens."""
    path = os.environ["PATH"]
    wheel, said = make_wheel(tmp_path, PATH=path, CXX=str(compiler(tmp_path, FAILING)))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "some.cpp: error: cannot compile" in said


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in compilers are shell scripts")
def test_a_wheel_with_the_library_is_for_its_platform(tmp_path: Path) -> None:
    """It carries the library, one at that, and a tag that other machines do not take."""
    wheel, _ = make_wheel(tmp_path, PATH=os.environ["PATH"], CXX=str(compiler(tmp_path, WORKING)))
    assert "-py3-none-any" not in wheel.name
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    names = zipfile.ZipFile(wheel).namelist()
    assert names.count("glm_backend_cpu/_kernels.so") == 1
    assert zipfile.ZipFile(wheel).read("glm_backend_cpu/_kernels.so") == b"compiled\n"


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="levels of x86")
def test_levels_that_the_compiler_lacks_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old compiler still builds what it knows."""
    monkeypatch.setenv("CXX", str(compiler(tmp_path, WITHOUT_WIDE_VECTORS)))
    builder = runpy.run_path(str(PROJECT / "native" / "build.py"))
    assert builder["build"](tmp_path / "library.so") == ("avxvnni", "avx2", "portable")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sanitizers are preloaded as on Linux")
def test_kernels_are_clean_under_sanitizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AddressSanitizer and UBSan see every kernel test and find nothing."""
    builder = runpy.run_path(str(PROJECT / "native" / "build.py"))
    library, runtimes = tmp_path / "checked.so", []
    try:
        builder["build"](library, SANITIZERS)
    except builder["BuildError"] as error:
        pytest.skip(f"no compiler that knows the sanitizers: {error}")
    found = shutil.which("c++") or shutil.which("g++")
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        command = [found or "c++", f"-print-file-name={name}"]
        runtimes.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    environment = {
        "GLM_TEST_KERNELS": str(library),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = [str(Path(__file__).with_name(name)) for name in KERNEL_TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=PROJECT.parents[1],
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "checked.so" not in done.stderr
