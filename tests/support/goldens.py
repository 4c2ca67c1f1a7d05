"""Golden numbers of the original implementation, from ``tests/data`` and, where set, ``GLM_FIXTURES``."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.architectures.chatglm2 import ChatGLM2, ChatGLM2Config
from glm_runtime_torch.checkpoints.reader import Checkpoint
from glm_runtime_torch.quantization import expect_stored_form
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent.parent / "data"
PAD = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case: the folder that it is in, its settings, and its tensors by field."""

    folder: str
    name: str
    kind: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, field: str) -> Tensor:
        return self.tensors[field]


@functools.cache
def cases(folder: str) -> tuple[Case, ...]:
    """All cases of ``tests/data/<folder>``."""
    described = json.loads((DATA / folder / "cases.json").read_text("utf-8"))
    stored = load_file(DATA / folder / "cases.safetensors")
    return tuple(
        Case(
            folder,
            entry["name"],
            entry["kind"],
            {key: value for key, value in entry.items() if key != "tensors"},
            {field: stored[facts["key"]] for field, facts in entry["tensors"].items()},
        )
        for entry in described["cases"]
    )


def named(folder: str, kind: str, *, at_least: int, **settings: Any) -> list[Any]:
    """Cases of a kind as pytest parameters; fails if there are fewer than expected."""
    found = [
        case
        for case in cases(folder)
        if case.kind == kind and all(case.settings.get(key) == value for key, value in settings.items())
    ]
    assert len(found) >= at_least, f"{len(found)} cases of kind {kind}"
    return [pytest.param(case, id=case.name) for case in found]


def checkpoint_directory(case: Case) -> Path:
    """The checkpoint that a v1 case was computed with."""
    return DATA / "chatglm-6b" / str(case.settings.get("checkpoint", "ckpt/fp16-safetensors"))


@functools.cache
def network(directory: Path, dtype: torch.dtype, overrides: tuple[tuple[str, Any], ...] = ()) -> ChatGLM:
    """The network of an unquantised checkpoint directory, all weights in ``dtype``."""
    raw = json.loads((directory / "config.json").read_text("utf-8"))
    config = ChatGLMConfig.from_checkpoint({**raw, **dict(overrides), "pre_seq_len": None})
    model = ChatGLM(config).eval()
    model.load_state_dict(_state(directory), strict=True)
    return model.to(dtype)


def network_of(case: Case) -> ChatGLM:
    """The network that a case was computed with."""
    dtype = getattr(torch, case.settings["dtype"])
    overrides = case.settings.get("config_override", {})
    kept = tuple((key, value) for key, value in overrides.items() if key == "position_encoding_2d")
    return network(checkpoint_directory(case), dtype, kept)


@functools.cache
def network2(directory: Path, dtype: torch.dtype) -> ChatGLM2:
    """The ChatGLM2 or ChatGLM3 network of a checkpoint directory, all but stored integers in ``dtype``."""
    raw = json.loads((directory / "config.json").read_text("utf-8"))
    model = ChatGLM2(ChatGLM2Config.from_checkpoint(raw)).eval()
    expect_stored_form(model, raw)
    model.load_state_dict(_state(directory), strict=True)
    return model.to(dtype)


def directory2(case: Case) -> Path:
    """The checkpoint that a case of ChatGLM2 or ChatGLM3 was computed with."""
    default = "ckpt/fp16-safetensors" if case.folder == "chatglm2-6b" else "ckpt/fp16-bin-sharded"
    return DATA / case.folder / str(case.settings.get("checkpoint", default))


def network2_of(case: Case) -> ChatGLM2:
    """The network that a case of ChatGLM2 or ChatGLM3 was computed with."""
    return network2(directory2(case), getattr(torch, case.settings["dtype"]))


def _state(directory: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(directory)
    return {
        name: checkpoint.read(name, dtype=_in_memory(checkpoint, name), device=torch.device("cpu"))
        for name in checkpoint
        if not name.endswith("inv_freq")
    }


def _in_memory(checkpoint: Checkpoint, name: str) -> torch.dtype:
    stored = checkpoint.get_facts(name).dtype
    return torch.float32 if stored.is_floating_point else stored


def real_positions(case: Case, padding: Tensor | None) -> Tensor:
    """``[B, P]`` bool: which of a case's ``logit_positions`` are no padding."""
    rows = case["input_ids"].shape[0]
    positions = case["logit_positions"]
    if padding is None:
        return torch.ones(rows, len(positions), dtype=torch.bool)
    return ~padding[:, positions]


def fixtures_or_skip() -> Path:
    """The folder with the two published vocabularies, which are not ours to ship."""
    folder = os.environ.get("GLM_FIXTURES")
    if not folder:
        pytest.skip("GLM_FIXTURES does not name the folder with the published vocabulary files")
    return Path(folder)
