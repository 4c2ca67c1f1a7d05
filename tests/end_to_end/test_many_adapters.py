"""The promise of many adapters on one model, on the real backend: they share a batch and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_backend_cpu._native import get_native
from glm_runtime_torch.model.directory import open_directory, recognize_family
from glm_runtime_torch.model.torch_model import TorchModel
from tiny_adapters import write_adapter

import glm_core
from glm_core import ChatModel, ChatRequest, Message, Sampling
from glm_core.records import LoadedModel, ModelSource

QUESTIONS = ("你好", "How do I quantise a model?", "怎么安装？", "What is P-Tuning v2?", "hi")
GREEDY = Sampling(max_new_tokens=24, do_sample=False, ignore_eos=True)
SAMPLED = Sampling(max_new_tokens=24, temperature=2.0, top_k=0, top_p=0.98, do_sample=True, ignore_eos=True)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight adapters of different lengths for the demo model."""
    folder, demo = tmp_path_factory.mktemp("adapters"), glm_core.resolve_model("demo")
    return {f"a{n}": write_adapter(folder / f"a{n}", demo, pre_seq_len=3 + n, seed=n) for n in range(8)}


def requests(sampling: Sampling) -> list[ChatRequest]:
    """Sixteen: the base model and eight adapters in turn, with prompts of different lengths."""
    names = [None, *(f"a{number}" for number in range(8))]
    return [
        ChatRequest(
            (Message("user", QUESTIONS[number % len(QUESTIONS)]),),
            sampling,
            adapter=names[number % len(names)],
            seed=number,
        )
        for number in range(16)
    ]


def tokens(model: TorchModel | ChatModel, request: ChatRequest) -> list[int]:
    """The tokens of an answer."""
    return [token for delta in model.stream(request) for token in delta.token_ids]


def check_that_company_changes_nothing(model: LoadedModel, sampling: Sampling) -> None:
    """Sixteen requests in one decode batch give the tokens that each gives alone."""
    assert isinstance(model, TorchModel)
    engine = model.engine
    alone = [tokens(model, request) for request in requests(sampling)]
    assert len({tuple(answer) for answer in alone}) > 9  # more than one adapter, or one question, would give
    batches: list[int] = []
    decode = engine.runner.decode

    def count_and_decode(sequences: Any, slots: Any) -> Any:
        batches.append(len(sequences))
        return decode(sequences, slots)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.runner, "decode", count_and_decode)
        streams = [model.stream(request) for request in requests(sampling)]
        together = [[token for delta in stream for token in delta.token_ids] for stream in streams]
    assert max(batches) == 16
    assert together == alone


@contextmanager
def on_the_reference(adapters: dict[str, Path], dtype: torch.dtype) -> Iterator[TorchModel]:
    """The demo model without any backend: plain torch throughout."""
    directory = glm_core.resolve_model("demo")
    family = recognize_family(directory)
    assert family is not None
    model = open_directory(ModelSource("demo", directory, adapters), directory, family, dtype)
    model.materialize(torch.device("cpu"))
    model.start(torch.device("cpu"), slots=16)
    yield model
    model.close()


@pytest.mark.skipif(get_native() is None, reason="torch's own kernels round a row by the size of its batch")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", ["none", "int4"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_eight_adapters_and_none_share_a_batch(
    adapters: dict[str, Path], dtype: str, quantize: str, sampling: Sampling
) -> None:
    """On the native kernels each of sixteen requests has the very tokens that it has alone."""
    with glm_core.load(
        "demo", device="cpu", dtype=dtype, quantize=quantize, adapters=adapters, slots=16
    ) as model:
        check_that_company_changes_nothing(model.loaded, sampling)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_eight_adapters_and_none_share_a_batch_on_the_reference(
    adapters: dict[str, Path], dtype: torch.dtype, sampling: Sampling
) -> None:
    """The same in plain torch."""
    with on_the_reference(adapters, dtype) as model:
        check_that_company_changes_nothing(model, sampling)


def test_adapters_added_while_it_serves_answer_as_those_loaded_at_the_start(
    adapters: dict[str, Path],
) -> None:
    """It makes no difference when an adapter came, nor what others came and went."""
    request = requests(GREEDY)[3]
    assert request.adapter == "a2"
    with glm_core.load("demo", device="cpu", adapters=adapters) as model:
        expected = tokens(model, request)
    with glm_core.load("demo", device="cpu") as model:
        for name in ("a7", "a2", "a5"):
            model.add_adapter(name, adapters[name])
        model.remove_adapter("a7")
        assert tokens(model, request) == expected
        assert model.info.adapters == ("a2", "a5")
