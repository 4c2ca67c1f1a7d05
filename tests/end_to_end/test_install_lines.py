"""Every install line that a page shows ends in a model that answers, or in the line that leads there."""

from __future__ import annotations

import re
import signal
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from child_process import ChildProcess
from environments import create_environment, environment_of, install_line, run_glm
from patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
MISSION = "pip install glm-core glm-backend-cuda glm-frontend-web"
_WORD = r"(?:glm|torch)[\w-]*"
LINE = re.compile(
    rf"pip install (?:{_WORD}|[\"']{_WORD}\[\w+\][\"'])(?: (?:{_WORD}|[\"']{_WORD}\[\w+\][\"']))*"
)
ENGINES_ELSEWHERE = re.compile("glm-(remote|runtime-llamacpp)")  # tests/examples runs both


PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("plugins/*/README.md"),
        *ROOT.glob("examples/**/README.md"),
    ]
)
OURS = {
    path.parent.name for place in ("plugins", "examples") for path in ROOT.glob(f"{place}/*/pyproject.toml")
}


def _find_lines() -> list[str]:
    """Return one line for every different set of our distributions that a page installs."""
    lines: dict[frozenset[str], str] = {}
    for page in PAGES:
        for line in LINE.findall(page.read_text("utf-8")):
            words = frozenset(word.strip("\"'") for word in line.split()[2:])
            # A name that is neither is of a package that the page has just written, such as glm-backend-npu.
            if all(_folder(word) in OURS | {"glm_core"} for word in words):
                lines.setdefault(words, line)
    return sorted(lines.values())


def _folder(requirement: str) -> str:
    return requirement.partition("[")[0].replace("-", "_")


LINES = _find_lines()


def test_page_that_installs_says_that_nothing_is_published() -> None:
    """A reader of any page whose commands begin with an install line finds the way that works today."""
    for page in PAGES:
        text = page.read_text("utf-8")
        commands = re.findall(rf"^(?:    |\$ )?{LINE.pattern}", text, re.MULTILINE)
        assert not commands or "installing.md" in text or page.name == "installing.md", page


def test_lines_are_found() -> None:
    """The pages of the frontends, the backends, the trainer, the kit and the examples have one each."""
    assert MISSION in LINES
    assert len(LINES) >= 12


@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", LINES)
def test_install_line_ends_in_an_answer(line: str, wheels: Path, tmp_path: Path) -> None:
    """``glm chat`` answers at once, or its error names the pip line after which it does."""
    if ENGINES_ELSEWHERE.search(line):
        pytest.skip("answers from a server, or an engine that is compiled while it is installed")
    if "[cpm]" in line and find_spec("cpm_kernels") is None:
        pytest.skip("cpm_kernels is not installed here")
    binaries = create_environment(tmp_path / "env")
    install_line(binaries, line, wheels)
    done = run_glm(binaries, wheels, "chat", "--greedy", "你好")
    if done.returncode:
        assert "Traceback" not in done.stderr
        (advice,) = LINE.findall(done.stderr)
        install_line(binaries, advice, wheels)
        done = run_glm(binaries, wheels, "chat", "--greedy", "你好")
    assert (done.returncode, "你好" in done.stdout) == (0, True), done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("frontend", ["web", "api", "cli"])
def test_missing_frontend_names_its_package(frontend: str, wheels: Path, tmp_path: Path) -> None:
    """Whoever installed a backend alone is told the one line for each frontend, and nothing else."""
    binaries = create_environment(tmp_path / "env")
    install_line(binaries, "pip install glm-backend-cpu", wheels)
    done = run_glm(binaries, wheels, "run", frontend)
    assert done.returncode != 0
    assert LINE.findall(done.stderr) == [f"pip install glm-frontend-{frontend}"]
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.timeout(900)
def test_mission_line_ends_in_a_page(wheels: Path, tmp_path: Path) -> None:
    """After the three packages of the README ``glm run web`` serves a page, without a GPU as well."""
    binaries = create_environment(tmp_path / "env")
    install_line(binaries, MISSION, wheels)
    command = [binaries / "glm", "run", "web", "--port", "0", "--no-inbrowser"]
    with ChildProcess(*command, environment=environment_of(binaries, wheels), folder=tmp_path) as process:
        url = process.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:
            assert "gradio" in client.get("/").text
        process.send_signal(signal.SIGINT)
        done = process.finish()
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
