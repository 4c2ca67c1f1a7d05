"""Copying what belongs to a model beside its weights and its configuration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from glm_hub.model_files import find_companions

from .integrity import check_not_lfs_pointer


def list_companions(source: Path) -> list[Path]:
    """Return the companions of a model's directory, relative to it (see `glm_hub.model_files`).

    Raises:
        CheckpointError: one of them is a Git LFS pointer.
    """
    found = find_companions(source)
    for path in found:
        check_not_lfs_pointer(source / path)
    return found


def copy_companions(source: Path, destination: Path) -> None:
    """Copy the companions of a model's directory, each brought to the disk.

    Raises:
        CheckpointError: one of them is a Git LFS pointer.
        OSError: it cannot be read or written.
    """
    for path in list_companions(source):
        copy = destination / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
