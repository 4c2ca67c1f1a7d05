"""Models of which one file is wrong, and what came of opening them as users do."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glm_core
from glm_core import GlmError, PluginError, Sampling
from glm_core.records import ChatRequest, Message

MAX_CPU_SECONDS = 2.0
MAX_BYTES = 200 * 10**6
# Keys that no tiny model has, but files of others do, and libraries may obey.
MORE_KEYS = (
    *("quantization_bit", "quantization_group_size", "quantization_embeddings", "quantization_config"),
    *(
        "num_labels",
        "id2label",
        "label2id",
        "pruned_heads",
        "torch_dtype",
        "dtype",
        "auto_map",
        "layer_types",
    ),
    *("rope_scaling", "rope_parameters", "rope_theta", "_attn_implementation", "pre_seq_len"),
    *(
        "prefix_projection",
        "model_max_length",
        "chat_template",
        "num_image_tokens",
        "tokenizer_class",
        "glm_family",
    ),
)
# Values that are wrong in ways of their own; beside them any JSON is tried.
VALUES: tuple[Any, ...] = (
    *("28", 2.5, 0, -1, None, 10**9, 2**40, 2**70, 10**90, "x", [], {}, True, False),
    *(float("inf"), float("nan"), 1e-320, [1], [10**9], [None], [[]], {"a": 1}, "", "\u0000", "<|user|>"),
    *("silu", "THUDM/chatglm3-6b", "a" * 5000, [1] * 1000),
    *({"rope_type": "yarn"}, {"type": "linear", "factor": 0}, {"type": "dynamic", "factor": 2.0}),
)
# Beside the files that a tiny model has.
MORE_FILES: Mapping[str, Mapping[str, Any]] = {
    "generation_config.json": {
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 3,
        "do_sample": True,
        "repetition_penalty": 1.1,
        "max_length": 100,
        "max_new_tokens": 50,
    },
    "tokenizer_config.json": {"name_or_path": "somewhere", "model_max_length": 512},
}


@dataclass(frozen=True)
class Outcome:
    """What opening a model and asking it came to.

    Attributes:
        word: ``answered``, ``refused`` (an error for users), or ``failed`` (any other).
        message: of the error.
        cpu_seconds: of all threads of this process.
        peak_bytes: resident memory at its highest, beyond what there was before; 0 = unknown.
    """

    word: str
    message: str
    cpu_seconds: float
    peak_bytes: int

    @property
    def complaint(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if self.word == "failed":
            return self.message
        if self.cpu_seconds > MAX_CPU_SECONDS:
            return f"{self.cpu_seconds:.1f} s of processor time"
        return f"{self.peak_bytes / 1e6:.0f} MB" if self.peak_bytes > MAX_BYTES else ""


def open_and_ask(directory: Path) -> Outcome:
    """Open a model on the CPU, let it answer with a few tokens, and close it."""
    before, start = _start_measuring(), time.process_time()
    word, message = "answered", ""
    try:
        with contextlib.closing(glm_core.load(directory, device="cpu", dtype="float32")) as model:
            model.reply(ChatRequest((Message("user", "你好"),), Sampling(max_new_tokens=2)))
    except PluginError as error:
        word, message = "failed", str(error)
    except GlmError as error:
        word, message = "refused", str(error)
    except Exception as error:
        word, message = "failed", repr(error)
    return Outcome(word, message, time.process_time() - start, _read_peak() - before if before else 0)


def copy_with(base: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """Copy a model, with files that it may lack, and change the copy."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base, target)
    for name, content in MORE_FILES.items():
        if not (target / name).exists():
            (target / name).write_text(json.dumps(content), "utf-8")
    change(target)
    return target


def set_key(path: Path, keys: tuple[str | int, ...], value: Any) -> None:
    """Set a key of a JSON file, or one inside it, to a value."""
    content = json.loads(path.read_text("utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content), "utf-8")


def list_keys(path: Path) -> list[tuple[str | int, ...]]:
    """Return every key of a JSON file and those inside objects and lists, and some more."""
    found: list[tuple[str | int, ...]] = [(key,) for key in MORE_KEYS]

    def walk(value: Any, front: tuple[str | int, ...]) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value[:20])
        for key, one in inner:
            found.append((*front, key))
            if isinstance(one, (dict, list)) and len(front) < 3:
                walk(one, (*front, key))

    walk(json.loads(path.read_text("utf-8")), ())
    return found


def _start_measuring() -> int:
    """Return the resident memory and let its peak begin anew; 0 where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _read_peak()
    except OSError:
        return 0


def _read_peak() -> int:
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
