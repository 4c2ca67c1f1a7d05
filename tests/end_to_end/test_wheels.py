"""Every distribution builds a wheel, and published packages install and chat in a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.timeout(1200)
def test_every_distribution_builds_a_complete_wheel(wheels: Path) -> None:
    """One wheel a project, each with its package, its type marker and the entry points that find it."""
    examples = {path.parent.name for path in ROOT.glob("examples/*/pyproject.toml")}
    built = [path for path in sorted(wheels.glob("*.whl")) if path.name.split("-")[0] not in examples]
    assert len(built) == len(PROJECTS) == 14
    for wheel in built:
        names = zipfile.ZipFile(wheel).namelist()
        package = wheel.name.split("-")[0]
        assert f"{package}/py.typed" in names
        assert not any(name.startswith(("tests/", "plugins/")) for name in names)
        if package == "glm_http":  # a library; the frontends that need it import it
            assert not any(name.endswith("entry_points.txt") for name in names)
            continue
        with zipfile.ZipFile(wheel) as archive:
            (found_by,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
        assert ("[glm.plugins]" in found_by) == (f"{package}/plugin.py" in names)
    demo = next(wheel for wheel in built if wheel.name.startswith("glm_model_demo"))
    assert "glm_model_demo/model/model.safetensors" in zipfile.ZipFile(demo).namelist()


@pytest.mark.timeout(1800)
def test_published_packages_install_and_chat(wheels: Path, tmp_path: Path) -> None:
    """In a clean environment, pip install and one command give a chat; nothing else is needed."""
    venv.create(tmp_path / "env", with_pip=True)
    binaries = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    run(
        binaries / "python",
        *("-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "--find-links", wheels),
        *("glm-core", "glm-backend-cpu", "glm-frontend-cli"),
        cwd=tmp_path,
    )
    clean = {"HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "GLM_LANG": "en"}
    plugins = run(binaries / "glm", "plugins", cwd=tmp_path, **clean).stdout
    assert [line.split()[0] for line in plugins.splitlines()[1:]] == [
        "backend_cpu",
        "frontend_cli",
        "model_demo",
        "runtime_torch",
    ]
    assert "你好" in run(binaries / "glm", "chat", "--greedy", "你好", cwd=tmp_path, **clean).stdout
    piped = subprocess.run(
        [str(binaries / "glm"), "run", "cli"],
        input="How do I quantise a model?\n",
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, **clean},
        check=True,
    )
    assert "--quantize" in piped.stdout
    run(binaries / "glm", "doctor", cwd=tmp_path, **clean)
