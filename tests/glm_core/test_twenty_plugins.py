"""Twenty plugins that ``glm plugin new`` wrote, half of them broken, each in another way."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_plugins import run_glm, run_python
from glm_testing.scaffold import KINDS, PackageNames, write_package

HEAVY = ("torch", "transformers", "gradio", "fastapi", "numpy")
WORKING = [f"good-{number}" for number in range(10)]

# name: what is appended to a working plugin.py, and what `glm plugins` says
BROKEN: dict[str, tuple[str, str]] = {
    "raises": ("raise RuntimeError('no luck')", "import failed: RuntimeError: no luck"),
    "exits": ("raise SystemExit(3)", "import failed: SystemExit: 3"),
    "cancels": ("import asyncio; raise asyncio.CancelledError", "import failed: CancelledError"),
    "lacks": ("import no_such_library", "import failed: ModuleNotFoundError: No module named"),
    "recurses": ("def f(): f()\n\nf()", "import failed: RecursionError"),
    "outdated": ("GLM_API_VERSION = 99", "was written for API version 99"),
    "misspells": ("@hookimpl\ndef describe_backends(): ...", "no hook; did you mean 'describe_backend'?"),
    "yields": ("@hookimpl\ndef place(model):\n    yield model", "place contains yield"),
    "lies": ("@hookimpl\ndef describe_backend(): return 'fast'", "describe_backend: returned 'fast'; one"),
    "forgets": (
        "@hookimpl\ndef describe_backend():\n    raise SystemExit('no driver')",
        "describe_backend failed: SystemExit: no driver",
    ),
}  # fmt: skip


def install(folder: Path, kind: str, name: str, more: str = "") -> None:
    """Write a new package and install it into a folder, as an installer leaves it."""
    names = PackageNames.derive(kind, name)
    project = folder.with_name("projects") / name
    write_package(names, project)
    package = folder / names.package
    shutil.copytree(project / "src" / names.package, package)
    with (package / "plugin.py").open("a") as file:
        file.write(f"\n\n{more}\n")
    info = folder / f"{names.package}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[glm.plugins]\n{names.plugin} = {names.package}.plugin\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All twenty, installed beside our own."""
    folder = tmp_path_factory.mktemp("twenty") / "installed"
    folder.mkdir()
    for number, name in enumerate(WORKING):
        install(folder, (*KINDS[::-1],)[number % len(KINDS)], name)
    for name, (more, _) in BROKEN.items():
        install(folder, "backend", name, more)
    assert len(list(folder.glob("*.dist-info"))) == 20
    return folder


def run(folder: Path, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """A command of glm with all of them installed."""
    environ = {"GLM_LANG": "en", "HF_HUB_OFFLINE": "1"}
    done = run_glm(*arguments, folder=folder, environ=environ, **options)
    assert "Traceback" not in done.stderr
    return done


def test_plugins_names_every_culprit_with_its_reason(folder: Path) -> None:
    """The table has a row for each; the exit status is 0, since nothing was asked of the broken ones."""
    done = run(folder, "plugins", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {report["name"]: report for report in json.loads(done.stdout)}
    for name, (_, reason) in BROKEN.items():
        assert found[name]["status"] in ("broken", "incompatible")
        assert reason in found[name]["reason"]
    assert [found[name.replace("-", "_")]["status"] for name in WORKING] == ["ok"] * len(WORKING)
    assert found["frontend_cli"]["status"] == "ok"


def test_chat_works_and_names_the_culprits(folder: Path) -> None:
    """``glm run cli`` answers with the runtime of one of them, and says in one line what it does without."""
    done = run(folder, "run", "cli", "--model", "good-1", input="hello there\n")
    assert done.returncode == 0, done.stderr
    assert "hello there" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "not used, because" in line]
    assert len(lines) == 2  # broken ones, and those of another API version
    assert all(name in " ".join(lines) for name in BROKEN)


def test_doctor_finds_every_culprit(folder: Path) -> None:
    """A fault each, with what to do; status 2. Everything else is as ever."""
    done = run(folder, "doctor", "--json")
    assert done.returncode == 2
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    for name, (_, reason) in BROKEN.items():
        finding = found[f"plugin {name}"]
        assert finding["verdict"] == "fault"
        assert reason in finding["message"]
        assert f"pip uninstall {name}" in finding["message"]
    faults = {check for check, finding in found.items() if finding["verdict"] == "fault"}
    assert faults == {f"plugin {name}" for name in BROKEN}


def test_devices_are_those_of_the_working_ones(folder: Path) -> None:
    """A backend that fails or lies costs its own devices only."""
    done = run(folder, "devices", "--json")
    assert done.returncode == 0
    names = {device["name"] for device in json.loads(done.stdout)["devices"]}
    assert {"cpu", "good-1", "good-3"} <= names
    assert names.isdisjoint(BROKEN)
    assert all(name in done.stderr for name in BROKEN)


def test_one_broken_plugin_is_left_out_by_name(folder: Path) -> None:
    """What a user does about it until it is mended."""
    environ = {"GLM_DISABLE_PLUGINS": ",".join(BROKEN)}
    done = run_glm("devices", folder=folder, environ=environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_start_loads_nothing_heavy(folder: Path) -> None:
    """However many plugins there are, help and lists load neither torch nor a server."""
    program = (
        "import contextlib, io, json, sys\n"
        "from glm_core.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    statuses = [main(['--help']), main(['plugins']), main(['run', '--help'])]\n"
        f"print(json.dumps([statuses, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    done = run_python("-c", program, folder=folder)
    assert json.loads(done.stdout) == [[0, 0, 0], []], done.stderr
