"""The README's chat command, word by word, in a fresh copy of the repository with empty caches."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_PART_OF_IT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "test-output", "dist", "build"
)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("python3.11") is None, reason="the README's command names python3.11")
def test_one_command_sets_everything_up_and_chats(tmp_path: Path) -> None:
    """It ends in a chat that greets in Chinese and explains quantising in English."""
    (command, *_) = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    checkout = tmp_path / "glm"
    shutil.copytree(ROOT, checkout, ignore=NOT_PART_OF_IT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GLM_", "HF_"))}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        input="你好\nHow do I quantise a model?\n",
        capture_output=True,
        text=True,
        timeout=1500,
        env={**environment, "HOME": str(tmp_path / "home"), "PIP_NO_CACHE_DIR": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "你好" in done.stdout
    assert "--quantize" in done.stdout
