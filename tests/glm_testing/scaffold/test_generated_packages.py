"""What ``glm plugin new`` writes is right as it is: installed, checked by the kit, linted, type-checked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from child_process import run
from fake_plugins import run_glm
from glm_testing.scaffold import KINDS, PackageNames, write_package
from packages import build_wheel, install
from patience import PATIENCE_SECONDS

LONGEST = "as-long-as-a-name-may-be-" + 5 * "x"


@pytest.fixture(scope="module", params=KINDS)
def generated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of each kind, written by the command itself."""
    folder = tmp_path_factory.mktemp(request.param) / "package"
    done = run_glm("plugin", "new", request.param, f"my-{request.param}", "--directory", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its wheel, installed beside the environment."""
    folder = tmp_path_factory.mktemp("built")
    return install([build_wheel(generated, folder)], folder / "installed")


def test_its_own_tests_pass_with_the_kit(generated: Path, installed: Path) -> None:
    """``pytest`` in the new package runs every check that concerns it and none fails."""
    done = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        folder=generated,
        # One thread: the demo model is small, and waiting for a second one on a busy machine is slow.
        environment={
            **os.environ,
            "PYTHONPATH": str(installed),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        seconds=2 * PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed >= 10


def test_glm_lists_it(generated: Path, installed: Path) -> None:
    """It is a plugin like any other, without remarks; nothing heavy is loaded for it."""
    name = f"my_{generated.parent.name.rstrip('0123456789')}"
    done = run_glm("plugins", environ={"PYTHONPATH": str(installed), "GLM_PLUGINS": name})
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(name)]
    assert [row[:3] for row in rows] == [[name, "0.1.0", "ok"]]
    assert "remarks" not in done.stdout


def test_it_is_linted_and_typed(generated: Path, mypy_cache: Path) -> None:
    """Ruff and mypy, with the settings that the package brings, have nothing to say."""
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        paths = [f"--cache-dir={mypy_cache}"] if tool[0] == "mypy" else ["."]
        environment = {**os.environ, "MYPYPATH": "src"}
        done = run(sys.executable, "-m", *tool, *paths, folder=generated, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "x1.y_z", LONGEST])
def test_format_does_not_depend_on_the_name(kind: str, name: str, tmp_path: Path) -> None:
    """Short and long names leave lines that fit and imports in order."""
    write_package(PackageNames.derive(kind, name), tmp_path / "package")
    for tool in (["check"], ["format", "--check"]):
        done = run(sys.executable, "-m", "ruff", *tool, ".", folder=tmp_path / "package")
        assert done.returncode == 0, done.stdout + done.stderr
