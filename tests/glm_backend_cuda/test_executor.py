"""Recorded decode steps, without a GPU: batch sizes, padding, fixed inputs, the eager engine's tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_backend_cuda._executor import RecordedExecutor, choose_batch_sizes
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from patience import join
from recorded_steps import RerunningRecorder, TensorAttention
from tiny_models import finished, tiny_checkpoint

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource

CPU = torch.device("cpu")
QUESTIONS = ["hello", "你好", "how do I quantise a model", "hello world", "世界 你好 hello"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("executor") / "model")


def started(directory: Path, recorder: RerunningRecorder | None, slots: int = 5) -> TorchModel:
    """A model on the processor; with a recorder its decode steps are recorded."""
    model = open_source(ModelSource("tiny", directory), "float32")
    assert model is not None
    model.materialize(CPU)
    model.start(
        CPU,
        slots=slots,
        attention=TensorAttention(),  # type: ignore[arg-type]  # it takes tensors only
        executor=None
        if recorder is None
        else lambda network, cache: RecordedExecutor(network, cache, CPU, recorder),
    )
    return model


@pytest.fixture
def recorder() -> RerunningRecorder:
    return RerunningRecorder()


@pytest.fixture
def recorded(directory: Path, recorder: RerunningRecorder) -> Iterator[TorchModel]:
    model = started(directory, recorder)
    yield model
    model.close()


@pytest.fixture(scope="module")
def eager(directory: Path) -> Iterator[TorchModel]:
    model = started(directory, None)
    yield model
    model.close()


def ask(model: TorchModel, question: str, **sampling: Any) -> list[int]:
    """Tokens of one answer."""
    request = ChatRequest((Message("user", question),), Sampling(max_new_tokens=10, **sampling), seed=5)
    return [token for delta in model.stream(request) for token in delta.token_ids]


def ask_all(model: TorchModel) -> dict[str, list[int]]:
    """Tokens of all answers, asked at once."""
    answers: dict[str, list[int]] = {}
    threads = [
        threading.Thread(target=lambda question=question: answers.update({question: ask(model, question)}))
        for question in QUESTIONS
    ]
    for thread in threads:
        thread.start()
    join(*threads)
    return answers


@pytest.mark.parametrize(
    ("slots", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (12, (1, 2, 4, 8, 12)),
        (32, (1, 2, 4, 8, 16, 32)),
    ],
)
def test_batch_sizes_end_with_the_largest_batch(slots: int, sizes: tuple[int, ...]) -> None:
    """Powers of two, and as many rows as there are slots."""
    assert choose_batch_sizes(slots) == sizes


@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"temperature": 1.5, "top_k": 0, "top_p": 0.9}])
def test_tokens_are_those_of_the_eager_engine(
    recorded: TorchModel, eager: TorchModel, recorder: RerunningRecorder, sampling: dict[str, Any]
) -> None:
    """One conversation is recorded once and replayed at every step, with the tokens that it has otherwise."""
    for question in QUESTIONS:
        assert ask(recorded, question, **sampling) == ask(eager, question, **sampling)
    assert recorder.recorded == 1
    assert recorder.replayed == sum(9 for _ in QUESTIONS)


def test_batches_give_each_request_its_own_tokens(recorded: TorchModel, eager: TorchModel) -> None:
    """Five at once on five slots give the tokens that each gets alone."""
    assert ask_all(recorded) == {question: ask(eager, question) for question in QUESTIONS}


def test_padding_rows_touch_nothing(recorded: TorchModel, recorder: RerunningRecorder) -> None:
    """Three rows run as four: the fourth stores nothing in any slot, and the three get their own logits."""
    engine = recorded.engine
    with torch.inference_mode():
        sequences = [
            engine.prepare(
                ChatRequest((Message("user", question),), Sampling(do_sample=False, max_new_tokens=8))
            )
            for question in QUESTIONS[:3]
        ]
        slots = [engine.slots.acquire() for _ in sequences]
        for sequence, slot in zip(sequences, slots, strict=True):
            sequence.advance(finished(engine.runner.prefill(sequence, slot)))
        before = [keys.clone() for keys in (*engine.cache._keys, *engine.cache._values)]
        together = engine.runner.decode(sequences, slots).clone()
        alone = [
            engine.runner.decode([sequence], [slot])[0].clone()
            for sequence, slot in zip(sequences, slots, strict=True)
        ]
    assert together.shape[0] == 3
    assert recorder.recorded == 2  # for four rows, and for one
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    changed: set[tuple[int, int]] = set()
    for old, new in zip(before, (*engine.cache._keys, *engine.cache._values), strict=True):
        changed |= {(int(slot), int(place)) for slot, _, place, _ in (old != new).nonzero()}
    wanted = {(slot, sequence.num_tokens - 1) for sequence, slot in zip(sequences, slots, strict=True)}
    assert changed == wanted


def test_inputs_stay_in_one_place(recorded: TorchModel) -> None:
    """Every step writes its numbers where the recording reads them; what a longer batch left is cleared."""
    ask_all(recorded)
    executor = recorded.engine.runner._executor
    assert isinstance(executor, RecordedExecutor)
    place = executor._inputs.data_ptr()
    ask(recorded, "hello")
    assert executor._inputs is not None
    assert executor._inputs.data_ptr() == place
    assert executor._inputs.shape == (3 + 2, 5)


def test_failure_to_record_is_said_once_and_answers_go_on(
    recorded: TorchModel,
    eager: TorchModel,
    recorder: RerunningRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If a step cannot be recorded, steps run one operation at a time, and one line says so."""
    recorder.fail = RuntimeError("operation not permitted when stream is capturing")
    assert ask(recorded, "hello") == ask(eager, "hello")
    assert ask(recorded, "你好") == ask(eager, "你好")
    assert recorder.recorded == 1
    assert [record.getMessage() for record in caplog.records] == [
        "decode steps of 1 rows cannot be recorded on cpu (RuntimeError: operation not permitted when "
        "stream is capturing); they run one operation at a time, which is slower"
    ]
