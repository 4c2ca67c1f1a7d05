"""docs/quantization.md shows what works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from glm_runtime_torch.quantization import SCHEMES

TEXT = (Path(__file__).parents[3] / "docs" / "quantization.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.skipif(sys.platform == "win32", reason="commands are shown as for a POSIX shell")
def test_the_commands_run_one_after_the_other(tmp_path: Path) -> None:
    """Every line of every shell block works in an empty directory, without network."""
    script = "\n".join(blocks("sh"))
    assert script.count("glm quantize") == 2
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if "--quantize" in line]
    assert len(answers) == 2
    assert (tmp_path / "demo-gptq" / "model.safetensors").is_file()


def test_the_python_block_runs() -> None:
    """What is said of the bytes is so."""
    (block,) = blocks("python")
    exec(block, {})


def test_every_scheme_is_in_the_table() -> None:
    """Nobody has to guess what `--quantize` takes."""
    assert [scheme for scheme in SCHEMES if f"| `{scheme}` |" not in TEXT] == []
