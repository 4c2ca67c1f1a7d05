"""Telling errors that users can mend from those that are ours."""

from __future__ import annotations

import torch

from glm_core import OutOfMemoryError


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error, of torch or of Python, says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def explain_failure(error: Exception, device: torch.device, num_tokens: int) -> Exception:
    """Return what a caller is told of an error that ended an answer of ``num_tokens`` with its prompt."""
    if not is_out_of_memory(error):
        return error
    explained = OutOfMemoryError(
        f"{device} ran out of memory at {num_tokens} tokens. "
        "Use a smaller max_length, a shorter conversation, or a quantised model."
    )
    explained.__cause__ = error
    return explained
