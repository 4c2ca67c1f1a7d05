"""Builds the kernel library with whatever C++ compiler there is; used by ``hatch_build.py`` and by tests.

python native/build.py DESTINATION [COMPILER FLAGS...]
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
COMPILER_SECONDS = 900

# Products and sums are never contracted or reordered, so that a row gives the same bits in every batch.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-pthread",
    "-Wno-psabi",
)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
X86_LEVELS = {
    "avx2": AVX2,
    "avxvnni": (*AVX2, "-mavxvnni"),
    "avx512": AVX512,
    "avx512bf16": (*AVX512, "-mavx512bf16"),
}


class BuildError(Exception):
    """There is no compiler, or it failed; the message is one sentence."""


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: ``$CXX`` if set, else the first of `COMPILERS` on the path.

    Raises:
        BuildError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    wanted = named[0] if named else ", ".join(COMPILERS)
    raise BuildError(f"no C++ compiler was found (looked for {wanted})")


def build(destination: Path, flags: Sequence[str] = ()) -> tuple[str, ...]:
    """Compile and link the library.

    A level whose instructions the compiler does not know is left out.

    Args:
        destination: file to write; replaced only when everything succeeded.
        flags: further compiler and linker flags.

    Returns:
        Names of the levels in it.

    Raises:
        BuildError: no compiler, or it failed on a part that is always needed.
    """
    compiler = find_compiler()
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    levels = X86_LEVELS if x86 else {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count() or 1) as pool:

        def compile_source(name: str, extra: Sequence[str]) -> Path:
            target = Path(folder) / f"{name}.o"
            _run([*compiler, *FLAGS, *extra, *flags, "-c", str(SOURCES / f"{name}.cpp"), "-o", str(target)])
            return target

        needed = [pool.submit(compile_source, name, ()) for name in ("pool", "level_portable")]
        tried = {
            level: pool.submit(compile_source, f"level_{level}", extra) for level, extra in levels.items()
        }
        built = [level for level, task in tried.items() if task.exception() is None]
        have = [f"-DGLM_HAVE_{level.upper()}" for level in built]
        needed.append(pool.submit(compile_source, "library", have))
        objects = [str(task.result()) for task in [*needed, *(tried[level] for level in built)]]
        library = Path(folder) / "library"
        _run([*compiler, "-shared", "-pthread", *flags, "-o", str(library), *objects])
        # Moved within the destination's file system, so that a program that has it open keeps the old one.
        beside = destination.with_name(f"{destination.name}.{os.getpid()}")
        shutil.copy(library, beside)
        beside.replace(destination)
    return (*reversed(built), "portable")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603  # the installer's own compiler
            command, capture_output=True, text=True, timeout=COMPILER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not run ({error})") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise BuildError(f"{command[0]} failed: {reason}")


if __name__ == "__main__":
    print(", ".join(build(Path(sys.argv[1]), sys.argv[2:])))
