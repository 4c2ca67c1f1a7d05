"""What concerns the whole suite: threads, plugins of pytest, the order of long tests, what was skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# How long an example takes depends on who else computes on this machine; it is no reason to fail.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

BUILD_WHEELS = Path(__file__).parents[1] / "scripts" / "build_wheels.py"

# A shell starts what runs in the background with Ctrl-C ignored, and `nohup` ignores that the terminal hangs
# up; children would inherit it, and tests of these signals would wait for an end that never comes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Several workers share the cores already. A second thread in each would wait for the others after every
# operation of a tiny model. Set before any test imports torch; the tests' children inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Many tests run pytest in a process of its own, and these plugins, which no test uses, take three seconds of
# each start. (For the suite itself pyproject.toml says the same.)
os.environ.setdefault("PYTEST_ADDOPTS", "-p no:anyio -p no:langsmith_plugin -p no:schemathesis")

# What takes longest begins first, so that no worker is left alone with it at the end.
LONGEST = (
    "tests/test_plugin_docs.py",
    "tests/end_to_end/test_readme_commands.py",
    "tests/end_to_end/test_wheels.py",
    "tests/end_to_end/test_install_lines.py",
    "tests/glm_backend_cpu/test_build.py",
    "tests/glm_ptuning/test_kill.py",
    "tests/glm_ptuning/test_processes.py",
    "tests/glm_runtime_torch/network/test_memory.py",
    "tests/glm_runtime_torch/checkpoints/test_quantize_memory.py",
    "tests/glm_model_demo/test_quantized_answers.py",
    "tests/end_to_end/test_ptuning_adgen.py",
)


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests that run mypy: it reads the core and its libraries once."""
    return tmp_path_factory.mktemp("mypy_cache")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of every distribution, built once for all workers."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "wheels"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            # With the build tools of this environment: one of its own for each would take minutes.
            command = [sys.executable, str(BUILD_WHEELS), str(folder), "--no-isolation"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            assert done.returncode == 0, done.stderr
            assert f"PIP_FIND_LINKS={folder.as_uri()}" in done.stdout
            (folder / "complete").touch()
    return folder


@pytest.hookimpl(tryfirst=True)  # a random order, where one is asked for, comes after this one
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first and leave all else in its order."""
    ranks = {path: rank for rank, path in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(LONGEST)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """In continuous integration, say what was not tested and why: a skip is easily overlooked."""
    if os.environ.get("CI") != "true":
        return
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    terminalreporter.section(f"{len(skipped)} tests skipped, for {len(reasons)} reasons")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}")
