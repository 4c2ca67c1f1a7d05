"""Reading a SentencePiece vocabulary, with an error that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from glm_core.errors import CheckpointError

from ..checkpoints.integrity import MAX_VOCABULARY_BYTES, check_not_lfs_pointer, check_regular_file, has_file


def load_vocabulary(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the SentencePiece vocabulary of a file.

    Raises:
        CheckpointError: the file is missing, a Git LFS pointer, or no SentencePiece model.
    """
    if not has_file(path):
        raise CheckpointError(
            f"{path} is missing: the tokenizer's vocabulary. Take it from the model's page."
        )
    check_not_lfs_pointer(path)
    check_regular_file(path, MAX_VOCABULARY_BYTES)
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path} is no SentencePiece model ({path.stat().st_size:,} bytes): it is damaged or cut off. "
            "Download it again."
        ) from error
