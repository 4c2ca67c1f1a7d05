"""Tests of plugins that are really installed: packages on disk, commands in processes of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fake_plugins import run_glm, run_python, write_package

WORKING = """
from glm_testing.null_backend import *
"""
RAISING = """
raise RuntimeError("no luck today")
"""
ONLY_THESE = "healthy,raising"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of installed packages with one plugin that works."""
    write_package(tmp_path, "healthy", WORKING, version="2.5")
    return tmp_path


def reports(folder: Path, **environ: str) -> dict[str, dict[str, str]]:
    """What ``glm plugins --json`` says, by plugin name."""
    done = run_glm("plugins", "--json", folder=folder, environ={"GLM_PLUGINS": "healthy", **environ})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("GLM_PLUGINS") == done.stderr.count("\n")  # at most the notice about names
    return {report["name"]: report for report in json.loads(done.stdout)}


def test_plugin_is_found_by_its_entry_point(folder: Path) -> None:
    """An installed package needs no registration anywhere else."""
    report = reports(folder)["healthy"]
    assert (report["status"], report["distribution"], report["version"]) == ("ok", "glm-healthy", "2.5")


def test_plugin_that_raises_breaks_no_command(folder: Path) -> None:
    """Help appears as ever, and the list names the broken plugin with version and reason."""
    write_package(folder, "raising", RAISING, version="0.7")
    assert run_glm("--help", folder=folder).stdout.startswith("usage: glm COMMAND")
    done = run_glm("plugins", folder=folder, environ={"GLM_PLUGINS": ONLY_THESE})
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("raising")]
    assert line.split()[1:] == [
        "0.7",
        "broken",
        *["import", "failed:", "RuntimeError:", "no", "luck", "today"],
    ]
    assert "healthy" in done.stdout
    assert done.stderr == ""


def test_interrupting_an_import_ends_the_command_and_names_the_plugin(folder: Path) -> None:
    """Ctrl-C is the way out of an import that never ends, and says which plugin to leave out."""
    write_package(folder, "raising", "raise KeyboardInterrupt")
    done = run_glm("plugins", folder=folder, environ={"GLM_PLUGINS": ONLY_THESE})
    assert done.returncode == 130
    assert "import of plugin raising" in done.stderr
    assert "GLM_DISABLE_PLUGINS=raising" in done.stderr
    assert "Traceback" not in done.stderr


def test_denied_plugin_is_not_imported(folder: Path) -> None:
    """A plugin that is switched off cannot even print."""
    write_package(folder, "raising", "print('imported')" + RAISING)
    assert reports(folder, GLM_DISABLE_PLUGINS="raising")["raising"]["status"] == "disabled"


@pytest.mark.parametrize(
    ("entry_points", "reason"),
    [
        ("[glm.plugins]\nraising\n", "entry_points.txt is malformed"),
        ("[glm.plugins]\nraising = ???\n", "import failed: "),
        ("[glm.plugins]\nraising = raising:nothing\n", "import failed: AttributeError: "),
        ("[glm.plugins]\nraising = no_such_module\n", "No module named 'no_such_module'"),
    ],
)
def test_malformed_entry_point_is_reported(folder: Path, entry_points: str, reason: str) -> None:
    """A package with damaged metadata is named and hides no other."""
    write_package(folder, "raising", "", entry_points=entry_points)
    found = reports(folder, GLM_PLUGINS=f"{ONLY_THESE},glm-raising")
    assert found["healthy"]["status"] == "ok"
    assert found["healthy"]["distribution"] == "glm-healthy"
    broken = found.get("raising") or found["glm-raising"]
    assert broken["status"] == "broken"
    assert reason in broken["reason"]


def test_foreign_package_with_damaged_entry_points_is_passed_over(folder: Path) -> None:
    """A package that has nothing to do with glm is nothing to report."""
    write_package(folder, "raising", "", entry_points="[console_scripts]\nnonsense\n")
    assert "raising" not in "".join(reports(folder, GLM_PLUGINS=ONLY_THESE))


def test_damaged_metadata_is_survived(folder: Path) -> None:
    """A plugin whose package lost its METADATA file is used, of unknown version."""
    (folder / "glm_healthy-2.5.dist-info" / "METADATA").unlink()
    report = reports(folder)["healthy"]
    assert (report["status"], report["version"]) == ("ok", "unknown")


def test_warnings_of_plugins_stay_off_the_terminal(folder: Path) -> None:
    """A user sees warnings of Python only on request."""
    write_package(folder, "raising", "import warnings\nwarnings.warn('old', UserWarning)\n" + WORKING)
    assert reports(folder, GLM_PLUGINS=ONLY_THESE)["raising"]["status"] == "ok"
    arguments = ("-W", "default", "-m", "glm_core", "plugins")
    done = run_python(*arguments, folder=folder, environ={"GLM_PLUGINS": ONLY_THESE})
    assert "UserWarning: old" in done.stderr


def test_debug_shows_why_a_plugin_is_broken(folder: Path) -> None:
    """With ``GLM_DEBUG=1`` the author of a plugin sees where its import failed."""
    write_package(folder, "raising", RAISING)
    environ = {"GLM_PLUGINS": ONLY_THESE, "GLM_DEBUG": "1"}
    done = run_glm("plugins", folder=folder, environ=environ)
    assert done.returncode == 0
    assert "Traceback" in done.stderr
    assert 'raise RuntimeError("no luck today")' in done.stderr


def test_bad_settings_give_one_line_for_every_command_but_help(folder: Path) -> None:
    """A wrong settings file never shows a traceback and never hides the help."""
    environ = {"GLM_DTYPE": "half"}
    line = "glm: GLM_DTYPE: dtype 'half' is unknown; expected one of auto, float32, bfloat16, float16\n"
    for command in (["run", "cli"], ["chat", "hi"], ["models"], ["devices"], ["plugins"]):
        done = run_glm(*command, folder=folder, environ=environ)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert run_glm("--help", folder=folder, environ=environ).returncode == 0
    done = run_glm("doctor", folder=folder, environ=environ)
    assert done.returncode == 2
    assert "FAULT  settings: GLM_DTYPE: dtype 'half' is unknown" in done.stdout
    assert done.stderr == ""


def test_first_of_two_installed_copies_counts(folder: Path, tmp_path: Path) -> None:
    """As for imports, an earlier folder wins; also when a damaged package forces the slow way of looking."""
    second = tmp_path / "second"
    write_package(second, "healthy", WORKING, version="1.0")
    write_package(second, "raising", "", entry_points="[console_scripts]\nnonsense\n")
    environ = {"PYTHONPATH": f"{folder}{os.pathsep}{second}", "GLM_PLUGINS": ONLY_THESE}
    done = run_glm("plugins", "--json", environ=environ)
    found = [report for report in json.loads(done.stdout) if report["name"] == "healthy"]
    assert [report["version"] for report in found] == ["2.5"]


@pytest.mark.parametrize("setting", ["GLM_PLUGINS", "GLM_DISABLE_PLUGINS"])
def test_names_of_no_plugin_are_told_in_one_line(folder: Path, setting: str) -> None:
    """A misspelt name would keep out what was meant, or let in what was not: all of them are named, once."""
    done = run_glm("plugins", "--json", folder=folder, environ={setting: "healthy, helthy,\x1bx,helthy"})
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert setting in line
    assert line.count("helthy") == 1
    assert "\\x1bx" in line
    assert "'healthy'" not in line
