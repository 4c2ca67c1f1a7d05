"""Checks on single files that need no parser: is this the file, or a stand-in for it?"""

from __future__ import annotations

from pathlib import Path

from glm_core.errors import CheckpointError

LFS_SIGNATURE = b"version https://git-lfs"


def check_not_lfs_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer, the text file that a clone without LFS leaves behind.

    Raises:
        CheckpointError: ``path`` is such a pointer; the message says how to get the real file.
    """
    with path.open("rb") as file:
        head = file.read(len(LFS_SIGNATURE))
    if head == LFS_SIGNATURE:
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({path.stat().st_size} bytes), not the file itself. "
            "Run `git lfs pull` in that directory, or download the file from the model's page."
        )
