"""A whole model with few key heads on Triton's kernels, the interpreter in a GPU's place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from glm_backend_cuda._placement import place_on
from glm_runtime_torch.backends import quantize_model
from glm_runtime_torch.loading import open_source
from recorded_steps import RerunningRecorder
from tiny_models import tiny_checkpoint2

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource, Placement, QuantizationScheme

pytest.importorskip("triton", reason="Triton is not installed")


def answer(directory: Path, kernels: str, scheme: str) -> list[int]:
    """Greedy tokens of a quantised model in float16."""
    model = open_source(ModelSource("tiny", directory), "float16")
    assert model is not None
    quantize_model(model, QuantizationScheme.parse(scheme))
    placement = Placement(("cuda:0",), slots=2, kernels=kernels)
    recorder = RerunningRecorder()
    placed = place_on(model, placement, {torch.device("cpu"): 10**9}, recorder=recorder)
    request = ChatRequest((Message("user", "hello"),), Sampling(do_sample=False, max_new_tokens=4))
    tokens = [token for delta in placed.stream(request) for token in delta.token_ids]
    placed.close()
    assert recorder.recorded == 1
    return tokens


def test_triton_answers_as_torch_does(tmp_path: Path) -> None:
    """Prompt and recorded decode steps, embedding, layers and attention together give the same tokens."""
    directory = tiny_checkpoint2(tmp_path / "model")
    assert answer(directory, "triton", "int4") == answer(directory, "torch", "int4")
