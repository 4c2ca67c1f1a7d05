"""New virtual environments that hold this one's third-party packages, but none of our distributions.

To install third parties anew for every line of the documentation would take an hour and a network. pip sees
them as installed here, so it resolves what our wheels ask for as it would for a user, and fails where a wheel
needs a distribution of ours that nothing brings.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from child_process import clean_environment, run

OURS = ("glm_", "_editable", "__editable", "__pycache__", "_virtualenv")
INSTALL_SECONDS = 300


def create_environment(folder: Path) -> Path:
    """Create an environment in ``folder`` and return the directory of its commands."""
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(OURS) and entry.suffix != ".pth":
            (Path(paths["purelib"]) / entry.name).symlink_to(entry)
    return Path(paths["scripts"])


def environment_of(binaries: Path, wheels: Path) -> dict[str, str]:
    """Return the variables with which commands of an environment run: our wheels, no network, no settings."""
    environment = clean_environment(
        GLM_LANG="en",
        HF_HUB_OFFLINE="1",
        PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_FIND_LINKS=str(wheels),
        PIP_NO_INDEX="1",
    )
    return {
        name: value for name, value in environment.items() if name not in ("VIRTUAL_ENV", "PYTEST_ADDOPTS")
    }


def install_line(binaries: Path, line: str, wheels: Path) -> None:
    """Run a ``pip install`` as a page shows it."""
    words = [word.strip("'\"") for word in line.split()]
    assert words[:2] == ["pip", "install"], line
    command = [binaries / "python", "-m", *words, "-q"]
    done = run(*command, environment=environment_of(binaries, wheels), seconds=INSTALL_SECONDS)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def run_glm(binaries: Path, wheels: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the ``glm`` that was installed there."""
    command = [binaries / ("glm.exe" if sys.platform == "win32" else "glm"), *arguments]
    return run(*command, environment=environment_of(binaries, wheels), folder=binaries.parent)
