"""Finding the GGUF file that a source means, without llama.cpp."""

from __future__ import annotations

import re
from pathlib import Path

from glm_core import CheckpointError
from glm_core.records import ModelSource

MAGIC = b"GGUF"
"""The first bytes of every GGUF file, of any version."""

_LATER_SHARD = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
"""Names of the second and later files of a split model; llama.cpp finds these itself from the first."""


def find_gguf(source: ModelSource) -> Path | None:
    """Return the GGUF file that a source means, ``None`` if it means none.

    A file that is called ``.gguf`` counts as ours also without the magic bytes: whoever passes it
    should read what is wrong with it, not that nobody knows it.

    Raises:
        CheckpointError: the file is damaged, or the directory holds several and no other checkpoint.
    """
    path = source.path
    if path is None or source.model is not None:
        return None  # a name, or a model in memory: another runtime's
    if path.is_file():
        return _check(path) if path.suffix == ".gguf" or _has_magic(path) else None
    files = [file for file in sorted(path.glob("*.gguf")) if not _LATER_SHARD.search(file.name)]
    if len(files) > 1:
        if (path / "config.json").is_file():
            return None  # a checkpoint of another format, to which somebody added GGUF files
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"{path} holds several GGUF files ({names}); pass the path of one of them")
    return _check(files[0]) if files else None


def _check(file: Path) -> Path:
    if not _has_magic(file):
        raise CheckpointError(
            f"{file} is called .gguf but does not begin with the letters GGUF: it is damaged, of another "
            "format, or a Git LFS pointer in the place of the file; download it again"
        )
    return file


def _has_magic(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
