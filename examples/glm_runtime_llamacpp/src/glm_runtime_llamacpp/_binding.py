"""llama-cpp-python as it is here: imported, quiet, and with errors that say what to do."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections import deque
from pathlib import Path
from typing import Any

from glm_core import CheckpointError, DeviceError, OutOfMemoryError

# Imported by name, so that type checkers need no llama-cpp-python: everything of it is `Any` here.
try:
    api: Any = importlib.import_module("llama_cpp")
except (OSError, RuntimeError) as error:  # installed, but its library does not load on this machine
    raise DeviceError(f"llama-cpp-python is installed but cannot be used: {error}") from error

_WORTH_SHARING = 2**26
"""Bytes of weights from which on several threads are faster than one."""
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR of ggml.h
_complaints: deque[str] = deque(maxlen=4)
"""What llama.cpp complained of last: its functions return no reasons, it only logs them."""


def _note_complaint(level: int, text: bytes, _: Any) -> None:
    """Keep an error; a line on standard error would land in the middle of a frontend's screen."""
    if level == _ERROR_LEVEL:
        _complaints.append(text.decode("utf-8", "replace").strip())


# Once for the process, as llama.cpp has one log. The name keeps alive what C calls back.
_log_callback = api.llama_log_callback(_note_complaint)
api.llama_log_set(_log_callback, ctypes.c_void_p(0))


class _Llama(api.Llama):  # type: ignore[misc]
    """A model whose chat template llama-cpp-python does not see: it would compile it here, without bounds."""

    chat_template: str | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the file says of itself."""
        return self._metadata

    @metadata.setter
    def metadata(self, found: dict[str, str]) -> None:
        self.chat_template = found.get("tokenizer.chat_template")
        self._metadata = {
            key: value for key, value in found.items() if not key.startswith("tokenizer.chat_template")
        }


def open_llama(file: Path, **options: Any) -> Any:
    """Open a GGUF file with llama-cpp-python.

    Args:
        file: the file, or the first of a split model.
        options: of `llama_cpp.Llama`.

    Raises:
        CheckpointError: llama.cpp cannot read the file.
        OutOfMemoryError: weights or KV cache do not fit.
    """
    _complaints.clear()
    try:
        return _Llama(str(file), verbose=False, **options)
    except Exception as error:  # llama.cpp has no error class of its own
        reason = "; ".join(_complaints) or str(error)
        if "alloc" in reason or isinstance(error, MemoryError):
            raise OutOfMemoryError(
                f"{file} does not fit into memory ({reason}); start with a smaller --context-length, or use "
                "a file that is quantised further"
            ) from error
        raise CheckpointError(
            f"llama.cpp cannot open {file}: {reason}. The file is damaged, not complete, or of an "
            "architecture that this llama-cpp-python does not know; download it again, or upgrade it"
        ) from error


def read_facts(llama: Any) -> dict[str, int | str]:
    """Return what a file says of its model: family, numbers of parameters, bytes and tokens of context.

    Raises:
        CheckpointError: the model is not one that goes on with text.
    """
    family = str(llama.metadata.get("general.architecture", ""))
    # llama.cpp's own function answers 0 as long as only the vocabulary is read.
    context_length = int(llama.metadata.get(f"{family}.context_length", 0))
    if api.llama_model_has_encoder(llama.model) or context_length < 1:
        raise CheckpointError(
            f"the file holds a model of architecture {family!r}, which does not go on with text; pass one "
            "that was made for conversations"
        )
    return {
        "family": family,
        "num_parameters": int(api.llama_model_n_params(llama.model)),
        "weight_bytes": int(api.llama_model_size(llama.model)),
        "context_length": context_length,
    }


def count_threads(weight_bytes: int) -> int:
    """Return how many threads to compute with.

    The threads of llama.cpp wait for one another after every operation. For a small model they would
    mostly wait, and where another program has a core, each wait costs a turn of the system's scheduler.
    """
    if weight_bytes < _WORTH_SHARING:
        return 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")  # what users set for every library that computes
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
