"""Tests of ``glm plugin new``: what it writes and says."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_testing import make_host, null_backend
from glm_testing.scaffold import command

from glm_core import cli


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working directory and one plugin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLM_LANG", "en")
    monkeypatch.setattr(command, "get_default_host", lambda: make_host(null=null_backend))


def test_package_is_written_and_the_next_commands_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a directory of its name, with what to type next."""
    assert cli.main(["plugin", "new", "backend", "glm-backend-npu"]) == 0
    files = [path for path in (tmp_path / "glm-backend-npu").rglob("*") if path.is_file()]
    assert capsys.readouterr().out.splitlines() == [
        f"wrote ./glm-backend-npu ({len(files)} files)",
        "next:",
        '  pip install -e "./glm-backend-npu[test]"',
        '  pytest "./glm-backend-npu"',
    ]
    names = {str(path.relative_to(tmp_path / "glm-backend-npu")) for path in files}
    assert {
        *("README.md", "pyproject.toml", ".gitignore", ".github/workflows/test.yml"),
        *("src/glm_backend_npu/plugin.py", "src/glm_backend_npu/py.typed", "tests/test_plugin.py"),
    } <= names


def test_what_to_do_next_is_said_in_chinese(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the locale is Chinese."""
    monkeypatch.setenv("GLM_LANG", "zh_CN")
    assert cli.main(["plugin", "new", "trainer", "lora"]) == 0
    assert capsys.readouterr().out.startswith("已写入 ./lora（")


def test_no_place_is_left_to_fill_in(tmp_path: Path) -> None:
    """Every name in every file is the package's own."""
    assert cli.main(["plugin", "new", "runtime", "tiny", "--directory", str(tmp_path / "here")]) == 0
    for path in (tmp_path / "here").rglob("*"):
        assert "__package__" not in str(path)
        if path.is_file() and path.suffix != ".yml":
            assert "$" not in path.read_text("utf-8")
    assert "${{ matrix.python }}" in (tmp_path / "here/.github/workflows/test.yml").read_text("utf-8")


@pytest.mark.parametrize("there", ["file", "directory"])
def test_what_is_there_is_left_alone(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory with something in it, or a file, is refused by name."""
    place = tmp_path / "npu"
    if there == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["plugin", "new", "backend", "npu"]) == 2
    assert capsys.readouterr().err == (
        "glm: npu exists already and is not an empty directory; choose another with --directory\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_directory_is_used(tmp_path: Path) -> None:
    """As after ``git init`` elsewhere or ``mkdir``."""
    (tmp_path / "npu").mkdir()
    assert cli.main(["plugin", "new", "backend", "npu"]) == 0


def test_directory_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's mistake gives no traceback."""
    (tmp_path / "file").write_text("")
    assert cli.main(["plugin", "new", "backend", "npu", "--directory", "file/inside"]) == 2
    assert capsys.readouterr().err.startswith("glm: file/inside cannot be written: ")


@pytest.mark.parametrize("arguments", [[], ["new"], ["new", "backend"], ["new", "thing", "x"], ["old"]])
def test_incomplete_command_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With its usage, and status 2."""
    assert cli.main(["plugin", *arguments]) == 2
    assert capsys.readouterr().err.startswith("usage: glm plugin")
