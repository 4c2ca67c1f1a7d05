"""Steps of several tokens a row: what one by one gives, whatever computes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from glm_backend_cpu._native import get_native
from glm_backend_cuda._executor import RecordedExecutor
from glm_runtime_torch.generation.sequence import Sequence
from glm_runtime_torch.generation.step import StepInput
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from recorded_steps import RerunningRecorder, TensorAttention
from tiny_models import finished, tiny_checkpoint, tiny_checkpoint2
from tiny_native import native_checkpoint
from torch import Tensor

import glm_core
from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource

CPU = torch.device("cpu")
QUESTIONS = ["hello", "how do I quantise a model", "你好 世界"]
DRAFT = 5


@pytest.fixture(scope="module", params=[tiny_checkpoint, tiny_checkpoint2, native_checkpoint])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of positions and a context that sees itself; a causal family; one of transformers."""
    return request.param(tmp_path_factory.mktemp("runner") / "model")


@pytest.fixture
def plain(directory: Path) -> Iterator[TorchModel]:
    """Without any backend."""
    model = open_source(ModelSource("tiny", directory), "float32")
    assert model is not None
    model.materialize(CPU)
    model.start(CPU, slots=3, context_length=64)
    yield model
    model.close()


@torch.inference_mode()
def run_steps(model: TorchModel, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Prefill three prompts of different lengths and feed each the same tokens, in steps of some sizes.

    Returns:
        Logits ``[3, tokens, V]``, and everything in the KV cache.
    """
    engine = model.engine
    requests = [
        ChatRequest((Message("user", question),), Sampling(do_sample=False)) for question in QUESTIONS
    ]
    sequences = [engine.prepare(request) for request in requests]
    slots = [2, 0, 1]
    for part in (*engine.cache._keys, *engine.cache._values):
        part.zero_()
    for sequence, slot in zip(sequences, slots, strict=True):
        finished(engine.runner.prefill(sequence, slot))
    logits, done = [], 0
    for size in sizes:
        starts = [sequence.num_tokens + done for sequence in sequences]
        step = StepInput(
            [[(row * 31 + done + token) % 50 + 5 for token in range(size)] for row in range(3)],
            torch.stack(
                [
                    one.layout.compute_position_ids(at, at + size)
                    for one, at in zip(sequences, starts, strict=True)
                ]
            ),
            slots,
            [start + size for start in starts],
            [()] * 3,
        )
        logits.append(engine.runner.run(step).clone())
        done += size
    return torch.cat(logits, dim=1), torch.stack([*engine.cache._keys, *engine.cache._values])


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 4]])
def test_steps_of_several_tokens_equal_single_ones(plain: TorchModel, sizes: list[int]) -> None:
    """Logits, keys and values are those of one token after the other, but for the last bits of a sum.

    PyTorch may add up a matrix product of 15 rows in another order than one of 3; the products here have
    at most 128 terms around 1.
    """
    expected, cached = run_steps(plain, [1] * DRAFT)
    logits, filled = run_steps(plain, sizes)
    assert logits.shape == (3, DRAFT, expected.shape[2])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(filled, cached, rtol=1e-5, atol=2e-5)


@pytest.mark.skipif(
    get_native() is None, reason="only its kernels add up a row in one order, whatever the batch"
)
@pytest.mark.parametrize("quantize", ["none", "int4"])
def test_on_the_kernels_steps_of_several_tokens_are_equal_bit_for_bit(directory: Path, quantize: str) -> None:
    """Looking ahead changes nothing of an answer where rows do not depend on their batch."""
    with glm_core.load(
        directory, device="cpu", dtype="float32", quantize=quantize, slots=3, context_length=64
    ) as model:
        assert isinstance(model.loaded, TorchModel)
        expected, cached = run_steps(model.loaded, [1] * DRAFT)
        for sizes in ([5], [2, 3]):
            logits, filled = run_steps(model.loaded, sizes)
            assert torch.equal(logits, expected)
            assert torch.equal(filled, cached)


def test_tokens_that_were_not_confirmed_are_overwritten(plain: TorchModel) -> None:
    """Feeding tokens ahead and then others in their place is as if the first had never been fed."""
    runner, slot = plain.engine.runner, 0
    request = ChatRequest((Message("user", QUESTIONS[0]),), Sampling(do_sample=False))

    def feed(sequence: Sequence, tokens: list[int]) -> Tensor:
        start, stop = sequence.num_tokens, sequence.num_tokens + len(tokens)
        positions = sequence.layout.compute_position_ids(start, stop).unsqueeze(0)
        return runner.run(StepInput([tokens], positions, [slot], [stop], [()])).clone()

    with torch.inference_mode():
        found = []
        for ahead in (None, [9, 10, 11]):
            sequence = plain.engine.prepare(request)
            finished(runner.prefill(sequence, slot))
            if ahead is not None:
                feed(sequence, ahead)
            found.append(feed(sequence, [9, 20, 21]))
    assert torch.equal(*found)


def test_executor_of_single_tokens_gets_single_tokens(directory: Path) -> None:
    """What a backend can only record for one token a row is split, and gives the same."""
    recorder = RerunningRecorder()
    found = []
    for records in (True, False):
        model = open_source(ModelSource("tiny", directory), "float32")
        assert model is not None
        model.materialize(CPU)
        model.start(
            CPU,
            slots=3,
            context_length=64,
            attention=TensorAttention(),  # type: ignore[arg-type]  # it takes tensors only
            executor=(lambda network, cache: RecordedExecutor(network, cache, CPU, recorder))
            if records
            else None,
        )
        found.append(run_steps(model, [2, 3]))
        model.close()
    assert recorder.recorded == 1
    assert recorder.replayed == DRAFT
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=2e-5)
