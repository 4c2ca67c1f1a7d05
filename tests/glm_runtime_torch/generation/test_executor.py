"""Whatever computes decode steps gets every row's token, positions, slot and length."""

from __future__ import annotations

from pathlib import Path

import torch
from glm_runtime_torch.generation.executor import EagerExecutor
from glm_runtime_torch.generation.step import StepInput
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.network.kv_cache import KVCache
from glm_runtime_torch.network.language_model import LanguageModel
from tiny_models import tiny_checkpoint
from torch import Tensor

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource

CPU = torch.device("cpu")


def test_backend_brings_its_own_executor(tmp_path: Path) -> None:
    """Every decode step goes through it, with the rows' own numbers, and its logits are what is sampled."""
    steps: list[StepInput] = []

    class Noting(EagerExecutor):
        def __init__(self, network: LanguageModel, cache: KVCache) -> None:
            super().__init__(network, cache, CPU)

        def decode(self, step: StepInput) -> Tensor:
            steps.append(step)
            return super().decode(step)

    directory = tiny_checkpoint(tmp_path / "model")
    answers = []
    for executor in (None, Noting):
        model = open_source(ModelSource("tiny", directory), "float32")
        assert model is not None
        model.materialize(CPU)
        model.start(CPU, slots=2, executor=executor)
        request = ChatRequest((Message("user", "hello"),), Sampling(do_sample=False, max_new_tokens=5))
        answers.append([token for delta in model.stream(request) for token in delta.token_ids])
        prompt = len(model.tokenizer.encode_chat(request.messages))
        model.close()
    assert answers[0] == answers[1]
    assert [step.token_ids for step in steps] == [[(token,)] for token in answers[0][:4]]
    assert {tuple(step.position_ids.shape) for step in steps} == {(1, 2, 1)}
    assert [step.lengths for step in steps] == [[prompt + count] for count in (1, 2, 3, 4)]
