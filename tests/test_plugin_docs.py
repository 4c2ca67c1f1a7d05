"""docs/plugins and examples say what is so: the reference, the tutorial word by word, the code blocks."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from environments import create_environment, environment_of

from glm_core import GlmError, errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "plugins"
BLOCK = re.compile(r"```(sh|python|text)\n(.*?)```", re.DOTALL)


def blocks(name: str) -> list[tuple[str, str]]:
    """Language and content of every block of a page that something is done with."""
    return BLOCK.findall((DOCS / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/hook_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("hook_reference", ROOT / "scripts" / "hook_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_what_the_docstrings_say(script: ModuleType) -> None:
    """Otherwise: python scripts/hook_reference.py"""
    assert (DOCS / "hooks.md").read_text("utf-8") == script.build_reference()


def test_reference_has_every_hook_whole(script: ModuleType) -> None:
    """Nothing of a docstring is lost on the way: when, who answers, each parameter, each error."""
    text = (DOCS / "hooks.md").read_text("utf-8")
    hooks = script.find_hooks()
    assert len(hooks) >= 12
    for name, function in hooks.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert "**When** " in section
        assert "**Answer** " in section
        words = re.findall(r"\w+", function.__doc__)
        missing = [word for word in words if word not in section]
        assert missing == [], name
    for name, kind in script.find_records().items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` .*\| (.*) \|$", section, re.MULTILINE)
        assert [field for field, _ in rows] == list(getattr(kind, "__dataclass_fields__", ()))
        if "Attributes:" in (kind.__doc__ or ""):
            assert all(said for _, said in rows), name


def test_check_fails_where_the_reference_is_old(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--check`` is for whoever changes a docstring."""
    assert script.main(["--check"]) == 0
    monkeypatch.setattr(script, "DOCUMENT", tmp_path / "hooks.md")
    (tmp_path / "hooks.md").write_text("old")
    assert script.main(["--check"]) == 1
    assert "run python scripts/hook_reference.py" in capsys.readouterr().out
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0


def test_python_block_of_the_guide_runs() -> None:
    """The guide's code works as it stands."""
    (block,) = [text for language, text in blocks("README.md") if language == "python"]
    scope: dict[str, object] = {}
    exec(block, scope)
    assert scope["reply"] == "hello world"


def test_every_error_class_has_its_row() -> None:
    """compatibility.md says of each when to raise it; those of finding models are core's own."""
    text = (DOCS / "compatibility.md").read_text("utf-8")
    classes = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert len(classes) >= 12
    rows = set(re.findall(r"`(\w+Error)`", text))
    assert classes - rows == {"HubError", "ModelNotFoundError"} - rows
    assert all(issubclass(getattr(errors, name), GlmError) for name in rows)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/README.md")), ids=lambda path: path.parent.name)
def test_examples_say_what_each_module_is(path: Path) -> None:
    """Every command of the page is one that there is, and every link leads somewhere."""
    text = path.read_text("utf-8")
    assert "glm " in text
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert "://" in target or (path.parent / target).exists(), target


@pytest.fixture(scope="module")
def environment(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A new virtual environment in which pip finds this checkout's wheels, and a shell with its commands."""
    binaries = create_environment(tmp_path_factory.mktemp("tutorial") / "env")
    for tool in ("pip", "pytest", "mypy"):  # an installer would have put these here as well
        script = binaries / tool
        script.write_text(f'#!/bin/sh\nexec "{binaries}/python" -m {tool} "$@"\n')
        script.chmod(0o755)
    (binaries / "ruff").symlink_to(Path(sys.executable).parent / "ruff")  # a program, not a module
    return environment_of(binaries, wheels) | {
        "PIP_NO_BUILD_ISOLATION": "off",  # pip reads this setting the wrong way round
        "OMP_NUM_THREADS": "1",  # a second thread on a busy machine is waited for
    }


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="the tutorial's commands are for a POSIX shell")
def test_tutorial_ends_with_a_working_backend(environment: dict[str, str], tmp_path: Path) -> None:
    """Every command succeeds, every file is written as it says, every output that it shows appears."""
    output, ran, written, compared = "", 0, 0, 0
    for language, text in blocks("tutorial.md"):
        if language == "sh":
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            output = done.stdout
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            ran += 1
        elif language == "python":
            path = tmp_path / text.partition("\n")[0].removeprefix("# ")
            assert path.is_file(), "the tutorial replaces a file that glm plugin new wrote"
            path.write_text(text.partition("\n")[2])
            written += 1
        else:
            for line in text.splitlines():
                assert line in output
                compared += 1
    assert (ran >= 8, written, compared >= 3) == (True, 2, True)
    assert (tmp_path / "dist" / "glm_backend_quiet-0.1.0-py3-none-any.whl").is_file()
    assert len(output.strip()) > 1  # the answer of the published wheel
