"""Building wheels, installing them beside the environment, and running the conformance kit on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from child_process import run
from fake_plugins import run_python

KIT = '''
from glm_testing.conformance import ConformanceTests
{imports}

class TestKit(ConformanceTests):
    """The kit."""

{attributes}
'''


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of a project, built offline."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob("*.whl"))
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, project)
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def install(wheels: Sequence[Path], target: Path) -> Path:
    """Install wheels into a directory that can be put on ``PYTHONPATH``."""
    _pip("install", "--no-deps", "--no-index", "--target", target, *wheels)
    return target


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *map(str, arguments)]
    done = run(*command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def run_kit(
    folder: Path,
    installed: Path,
    attributes: Mapping[str, object],
    *,
    imports: str = "",
    search: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the kit in a process of its own that sees ``installed``.

    Args:
        folder: where the test file is written.
        installed: where the plugin is.
        attributes: of the class, as Python text.
        imports: statements that these need.
        search: further places to import from.
        options: further options of pytest.
    """
    lines = "\n".join(f"    {name} = {value}" for name, value in attributes.items())
    (folder / "test_kit.py").write_text(KIT.format(imports=imports, attributes=lines))
    paths = ":".join(str(path) for path in (installed, *search))
    return run_python(
        *("-m", "pytest", "-q", "-rfs", "-p", "no:cacheprovider", "-o", "addopts=", *options),
        *(f"--rootdir={folder}", "test_kit.py"),
        environ={"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )
