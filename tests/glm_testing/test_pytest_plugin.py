"""The conformance kit as authors run it: from pytest's command line, and from their own tests."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from fake_plugins import run_python

MODULE = "glm_testing.pytest_plugin"
INSTALLED = any(point.value == MODULE for point in metadata.entry_points(group="pytest11"))


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder; where glm-core was installed without its entry points, name the plugin."""
    named = () if INSTALLED else ("-p", MODULE)
    return run_python("-m", "pytest", "-p", "no:cacheprovider", *named, *arguments, folder=folder, cwd=folder)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What it printed."""
    return [line for line in done.stdout.splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a test of its own, and a plugin that ignores stop strings."""
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from glm_core import hookimpl\n"
        "from glm_testing import null_backend\n"
        "from glm_testing.null_backend import *\n"
        "@hookimpl\n"
        "def chat_stream(model, request):\n"
        "    return null_backend.chat_stream(model, replace(request, stop=()))\n"
    )
    return tmp_path


def test_a_plugin_is_checked_without_any_test_file(folder: Path) -> None:
    """Each check is a line of its own, and the tests of the folder are left alone."""
    done = run_pytest(folder, "-v", "-rs", "--glm-plugin", "glm_testing.null_backend")
    assert done.returncode == 0, done.stdout
    assert re.search(r"collected \d\d items", done.stdout)
    assert "glm_testing.null_backend::closing PASSED" in done.stdout
    assert "test_own" not in done.stdout
    assert "its models have no load" in done.stdout  # why a check was skipped


def test_a_failure_names_the_promise_and_no_traceback(folder: Path) -> None:
    """What an author reads first is what is broken and where it is written down."""
    done = run_pytest(folder, "-q", "--glm-plugin", "mine", "-k", "stop or closing")
    assert done.returncode == 1
    said = [line for line in lines(done) if line.startswith("promise ")]
    assert len(said) == 1
    assert said[0].startswith(
        'promise "an answer ends before the first stop string, wherever tokens begin and end" '
        "(docs/plugins/promises.md#stop-strings) is broken: stop="
    )
    assert "Traceback" not in done.stdout
    assert re.search(r"^FAILED .*mine::stop-strings", done.stdout, re.MULTILINE)


def test_paths_on_the_command_line_are_tested_too(folder: Path) -> None:
    """The plugin and the named file."""
    done = run_pytest(
        folder, "-v", "test_own.py", "--glm-plugin", "glm_testing.null_backend", "-k", "own or loads"
    )
    assert done.returncode == 0, done.stdout
    assert "test_own.py::test_own PASSED" in done.stdout
    assert "glm_testing.null_backend::loads PASSED" in done.stdout


def test_workers_of_xdist_check_the_plugin_alone(folder: Path) -> None:
    """They know, too, that no path was given."""
    done = run_pytest(folder, "-v", "-n", "2", "--glm-plugin", "glm_testing.null_frontend")
    assert done.returncode == 0, done.stdout
    assert "glm_testing.null_frontend::loads" in done.stdout
    assert "test_own" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--glm-plugin", "nobody"), "'nobody' is neither an installed plugin"),
        (("--glm-plugin", "mine", "--glm-adapter", "poet"), "--glm-adapter 'poet': expected NAME=VALUE"),
        (("--glm-plugin", "mine", "--glm-driver", "mine:Nobody"), "--glm-driver 'mine:Nobody': "),
        (("--glm-plugin", "mine", "--glm-adapter", "poet=nowhere"), "nowhere is no directory"),
    ],
)
def test_a_wrong_option_is_one_sentence(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    """A usage error of pytest, not a traceback."""
    done = run_pytest(folder, *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_the_option_pytest_is_as_ever(folder: Path) -> None:
    """Only the folder's own tests run."""
    done = run_pytest(folder, "-v")
    assert done.returncode == 0
    assert "1 passed" in done.stdout


def test_the_kit_is_a_test_class_too(folder: Path) -> None:
    """Derived from in an author's own tests, with settings as class attributes."""
    (folder / "poet").mkdir()
    (folder / "poet" / "adapter.txt").write_text("Ahoy!")
    (folder / "test_conformance.py").write_text(
        "from glm_testing.conformance import ConformanceTests\n"
        "class TestMine(ConformanceTests):\n"
        "    plugin = 'mine'\n"
        "    adapters = {'poet': 'poet'}\n"
    )
    done = run_pytest(folder, "-v", "test_conformance.py")
    assert done.returncode == 1
    assert "TestMine::test_promise[adapters] PASSED" in done.stdout
    assert "TestMine::test_promise[stop-strings] FAILED" in done.stdout
    failed = [line for line in lines(done) if line.startswith("FAILED")]
    assert len(failed) == 1
    assert "docs/plugins/promises.md#stop-strings" in done.stdout


def test_the_null_plugins_need_no_pytest() -> None:
    """What authors copy, and what runs in processes of its own, loads nothing of the test runner."""
    modules = "null_backend, null_frontend, null_trainer, scripted_model, driver, hosts, _scripted_frontend"
    done = run_python(
        "-c", f"import sys; from glm_testing import {modules}; assert 'pytest' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
