"""The documents say what is so: commands, code, links, and the same in both languages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from glm_core.cli import COMMANDS
from glm_core.config import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [
        path
        for pattern in (
            "*.md",
            "docs/**/*.md",
            "benchmarks/*.md",
            "plugins/*/README.md",
            "examples/**/README.md",
        )
        for path in ROOT.glob(pattern)
    ]
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def test_links_inside_the_repository_lead_somewhere() -> None:
    """Every relative link and picture of every document exists."""
    links = [
        (path, target)
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text("utf-8"))
        if "://" not in target
    ]
    assert len(DOCUMENTS) >= 40
    assert len(links) >= 100
    missing = [
        f"{path.relative_to(ROOT)}: {target}"
        for path, target in links
        if not (path.parent / target).resolve().exists()
    ]
    assert missing == []


def test_both_readmes_show_the_same_commands_and_code() -> None:
    """README.md and README.zh.md differ in words only."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    assert blocks(english, "python") == blocks(chinese, "python")

    def without_comments(path: Path) -> list[str]:
        return [re.sub(r"\s+#.*", "", block) for block in blocks(path, "sh")]

    assert without_comments(english) == without_comments(chinese)
    shapes = [
        re.findall(r"^(#+ |\||!\[|```)", path.read_text("utf-8"), re.MULTILINE) for path in (english, chinese)
    ]
    assert shapes[0] == shapes[1]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """The build calls the very line that the README gives."""
    command = blocks(ROOT / "README.md", "sh")[1].strip()
    assert command in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


def test_every_command_in_the_readme_exists() -> None:
    """Each `glm` line starts with a command that there is, and the README shows them all."""
    shown = set(
        re.findall(r"^(?:echo .*\| )?glm (\w+)", "\n".join(blocks(ROOT / "README.md", "sh")), re.MULTILINE)
    )
    assert shown == set(COMMANDS)


def test_python_blocks_of_the_readme_run() -> None:
    """The README's Python code runs as it stands, one block after the other."""
    script = "\n".join(blocks(ROOT / "README.md", "python"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--quantize" in done.stdout


def test_every_setting_is_documented() -> None:
    """docs/configuration.md names each setting and its environment variable."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    for name in Settings.__dataclass_fields__:
        assert f"`{name}`" in text
        assert f"`GLM_{name.upper()}`" in text


def test_map_of_rooms_names_every_module_of_the_runtime_and_core() -> None:
    """docs/architecture.md has each top-level module and folder in its map."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    small = {"__init__", "__main__", "_checks", "plugin", "py", "__pycache__"}
    for folder in ("glm_core", "plugins/glm_runtime_torch/src/glm_runtime_torch"):
        names = {path.stem for path in (ROOT / folder).iterdir()} - small
        missing = [name for name in sorted(names) if name not in text]
        assert missing == [], folder


def test_every_plugin_has_the_one_shape() -> None:
    """README, pyproject with an entry point to plugin.py, a typed package under src."""
    projects = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    # What is found through another group of entry points has no hooks, and so no plugin.py.
    plugins = [path for path in projects if '."glm.plugins"]' in (path / "pyproject.toml").read_text("utf-8")]
    assert {path.name for path in projects} - {path.name for path in plugins} == {
        "glm_http",
        "glm_hub",
        "glm_jobs",
        "glm_testing",
    }
    assert len(plugins) >= 9
    for plugin in plugins:
        package = plugin / "src" / plugin.name
        for path in (
            plugin / "README.md",
            package / "__init__.py",
            package / "plugin.py",
            package / "py.typed",
        ):
            assert path.is_file(), path
        assert f'= "{plugin.name}.plugin"' in (plugin / "pyproject.toml").read_text("utf-8")


def test_every_benchmark_and_report_is_listed() -> None:
    """benchmarks/README.md names each script that can be run and each report."""
    listed = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    scripts = [
        path.name
        for path in sorted((ROOT / "benchmarks").glob("*.py"))
        if '__name__ == "__main__"' in path.read_text("utf-8") and path.name != "random_checkpoint.py"
    ]
    reports = [path.name for path in sorted((ROOT / "benchmarks").glob("*_2*.md"))]
    assert len(scripts) > 10
    assert [name for name in scripts + reports if f"]({name})" not in listed] == []
