"""Reading the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glm_core import CheckpointError

from .integrity import check_not_lfs_pointer


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: a Git LFS pointer, no JSON, or no object.
    """
    check_not_lfs_pointer(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, a JSON object is expected.")
    return content
