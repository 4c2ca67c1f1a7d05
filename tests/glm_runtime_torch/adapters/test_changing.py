"""Adapters that come and go while requests run: who may use them, their room, what stays in memory."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.adapters.adapter import StoredAdapter
from glm_runtime_torch.adapters.prefix import PrefixAdapter
from glm_runtime_torch.families import registry as families
from glm_runtime_torch.generation.request_stream import RequestStream
from glm_runtime_torch.model import torch_model as model_module
from glm_runtime_torch.model.directory import open_directory
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.prefix_encoder import PrefixEncoder
from key_words import containing
from patience import PATIENCE_SECONDS, join, wait_until
from scripted_engine import Gate
from tiny_adapters import write_adapter
from tiny_models import open_with_prompt, tiny_checkpoint, tiny_checkpoint2

from glm_core import (
    AdapterError,
    ChatRequest,
    ClosedError,
    Message,
    ModelInfo,
    OutOfMemoryError,
    RequestError,
    Sampling,
)
from glm_core.records import AdapterHolder, ModelSource

CPU = torch.device("cpu")
CONTEXT = 96


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's."""
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def adapters(directory: Path) -> dict[str, Path]:
    """Two for that model, of 5 and 9 positions."""
    folder = directory.parent
    return {
        "five": write_adapter(folder / "five", directory, pre_seq_len=5, seed=1),
        "nine": write_adapter(folder / "nine", directory, pre_seq_len=9, seed=2),
    }


def opened(directory: Path, adapters: dict[str, Path] | None = None, slots: int = 1) -> TorchModel:
    """The model, ready to answer."""
    source = ModelSource("tiny", directory, adapters or {})
    model = open_directory(source, directory, families.CHATGLM, torch.float32)
    model.materialize(CPU)
    model.start(CPU, slots=slots, context_length=CONTEXT)
    return model


@pytest.fixture
def model(directory: Path) -> Iterator[TorchModel]:
    """Without adapters, on one slot."""
    model = opened(directory)
    yield model
    model.close()


def ask(adapter: str | None, tokens: int | None = 12, text: str = "hello") -> ChatRequest:
    """A greedy request that goes on to its length."""
    sampling = Sampling(max_new_tokens=tokens, do_sample=False, ignore_eos=True)
    return ChatRequest((Message("user", text),), sampling, adapter=adapter)


def tokens(stream: Any) -> list[int]:
    """Its tokens, read to the end."""
    return [token for delta in stream for token in delta.token_ids]


def held(model: TorchModel) -> Gate:
    """Holds the engine's thread up before its next decode step."""
    gate, decode = Gate(), model.engine.runner.decode

    def wait_and_decode(*arguments: Any) -> torch.Tensor:
        gate()
        return decode(*arguments)

    model.engine.runner.decode = wait_and_decode  # type: ignore[assignment, method-assign]
    return gate


def prefix_of(model: TorchModel, name: str) -> weakref.ref[torch.Tensor]:
    """The adapter's tensor, without keeping it."""
    adapter = model.engine.adapters.get(name)
    assert isinstance(adapter, PrefixAdapter)
    return weakref.ref(adapter.key_values)


def is_gone(reference: weakref.ref[torch.Tensor]) -> bool:
    """Whether nobody holds the tensor any more."""
    gc.collect()
    return reference() is None


# --- who may use an adapter, and until when ------------------------------------------------------


def test_model_is_an_adapter_holder(model: TorchModel) -> None:
    """Core finds out by the protocol that adapters may change here."""
    assert isinstance(model, AdapterHolder)


def test_adapter_answers_from_its_adding_to_its_removal(
    model: TorchModel, directory: Path, adapters: dict[str, Path]
) -> None:
    """It answers exactly as it does on a model that was started with it, and is listed meanwhile."""
    started = opened(directory, adapters)
    expected = [tokens(started.stream(ask(name))) for name in (None, "five", "nine")]
    started.close()
    for name, path in adapters.items():
        model.add_adapter(name, path)
    assert model.info.adapters == ("five", "nine")
    assert [tokens(model.stream(ask(name))) for name in (None, "five", "nine")] == expected
    assert len({tuple(answer) for answer in expected}) == 3
    model.remove_adapter("five")
    assert model.info.adapters == ("nine",)
    with pytest.raises(AdapterError, match="adapter 'five' is not loaded"):
        model.stream(ask("five"))


def test_requests_with_a_removed_adapter_end_as_they_would_have(
    model: TorchModel, adapters: dict[str, Path]
) -> None:
    """One that runs and one that waits keep it, even where another adapter takes its name."""
    model.add_adapter("five", adapters["five"])
    expected = tokens(model.stream(ask("five")))
    gate = held(model)
    running = model.stream(ask("five"))
    assert gate.reached.wait(PATIENCE_SECONDS)
    waiting = model.stream(ask("five"))
    model.remove_adapter("five")
    model.add_adapter("five", adapters["nine"])
    newcomer = model.stream(ask("five"))
    gate.open()
    assert tokens(running) == expected
    assert tokens(waiting) == expected
    assert tokens(newcomer) != expected


def test_slots_do_not_mistake_one_adapters_prompts_for_anothers(tmp_path: Path) -> None:
    """Where slots keep prompts for later, an adapter that takes a removed one's name starts afresh."""
    directory = tiny_checkpoint2(tmp_path / "model")
    paths = [write_adapter(tmp_path / f"{seed}", directory, seed=seed) for seed in (1, 2)]
    prompt = [3 + number % 200 for number in range(300)]  # long enough for a slot to keep some of it
    started = open_with_prompt(directory, prompt, adapters={"first": paths[0], "second": paths[1]})
    expected = [tokens(started.stream(ask(name))) for name in ("first", "second", None)]
    started.close()
    assert len({tuple(answer) for answer in expected}) == 3
    model = open_with_prompt(directory, prompt)
    answers = []
    for path in paths:
        model.add_adapter("it", path)
        for _ in range(2):  # the second finds a slot that holds the prompt
            *deltas, last = model.stream(ask("it"))
            answers.append([*tokens(deltas), *last.token_ids])
        assert last.usage is not None
        assert last.usage.cached_tokens > 0
        model.remove_adapter("it")
    assert answers == [expected[0], expected[0], expected[1], expected[1]]
    assert tokens(model.stream(ask(None))) == expected[2]
    model.close()


def test_adapter_that_comes_back_finds_its_prompts(tmp_path: Path) -> None:
    """Removed and read again, under its name or another, it is the same adapter to the slots."""
    directory = tiny_checkpoint2(tmp_path / "model")
    path = write_adapter(tmp_path / "adapter", directory)
    model = open_with_prompt(directory, [3 + number % 200 for number in range(300)])
    answers, cached = [], []
    for name in ("it", "it", "renamed"):
        model.add_adapter(name, path)
        deltas = list(model.stream(ask(name)))
        assert deltas[-1].usage is not None
        answers.append([token for delta in deltas for token in delta.token_ids])
        cached.append(deltas[-1].usage.cached_tokens)
        model.remove_adapter(name)
    assert answers[0] == answers[1] == answers[2]
    assert cached == [0, 256, 256]
    model.close()


# --- memory --------------------------------------------------------------------------------------


def test_removed_adapter_leaves_memory_with_its_last_request(
    model: TorchModel, adapters: dict[str, Path]
) -> None:
    """A request that waits keeps it; one that has it in its slot, or has ended, does not."""
    model.add_adapter("five", adapters["five"])
    reference = prefix_of(model, "five")
    gate = held(model)
    running = model.stream(ask("five"))
    assert gate.reached.wait(PATIENCE_SECONDS)
    waiting, given_up = model.stream(ask("five")), model.stream(ask("five"))
    model.remove_adapter("five")
    assert isinstance(given_up, RequestStream)
    given_up.close()
    assert not is_gone(reference)
    gate.open()
    tokens(running)
    tokens(waiting)
    wait_until(lambda: model.load.active == 0)
    assert is_gone(reference)  # the streams themselves are still there


def test_running_answer_does_not_keep_a_removed_adapter(model: TorchModel, adapters: dict[str, Path]) -> None:
    """Its slot of the cache has a copy, so the adapter's memory is free from then on."""
    model.add_adapter("five", adapters["five"])
    reference = prefix_of(model, "five")
    gate = held(model)
    running = model.stream(ask("five"))
    assert gate.reached.wait(PATIENCE_SECONDS)
    model.remove_adapter("five")
    assert is_gone(reference)
    gate.open()
    assert len(tokens(running)) == 12


def test_cancelled_requests_do_not_keep_a_removed_adapter(
    model: TorchModel, adapters: dict[str, Path]
) -> None:
    """Whoever holds on to a closed stream does not hold on to its adapter."""
    model.add_adapter("five", adapters["five"])
    reference = prefix_of(model, "five")
    gate = held(model)
    running = model.stream(ask(None))
    assert gate.reached.wait(PATIENCE_SECONDS)
    waiting = model.stream(ask("five"))
    model.remove_adapter("five")
    assert isinstance(waiting, RequestStream)
    waiting.close()
    assert is_gone(reference)
    gate.open()
    tokens(running)


def test_adapter_is_in_memory_once(
    directory: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the files held is let go as soon as keys and values are laid out, at the start and later."""
    encoders: weakref.WeakSet[PrefixEncoder] = weakref.WeakSet()
    lay_out = PrefixEncoder.lay_out

    def noted(encoder: PrefixEncoder, *place: Any) -> torch.Tensor:
        encoders.add(encoder)
        return lay_out(encoder, *place)

    monkeypatch.setattr(PrefixEncoder, "lay_out", noted)
    model = opened(directory, {"five": adapters["five"]})
    model.add_adapter("nine", adapters["nine"])
    gc.collect()
    assert len(encoders) == 0
    for name, length in (("five", 5), ("nine", 9)):
        adapter = model.engine.adapters.get(name)
        assert isinstance(adapter, PrefixAdapter)
        prefix = adapter.key_values
        assert prefix.is_contiguous()
        assert prefix.untyped_storage().nbytes() == prefix.numel() * prefix.element_size()
        assert prefix.shape[3] == length
    model.close()


# --- room ----------------------------------------------------------------------------------------


def longest(model: TorchModel, adapter: str | None) -> int:
    """Tokens of prompt and answer of a request that takes all it can have."""
    request = ChatRequest(
        (Message("user", "hello"),),
        Sampling(max_length=10_000, do_sample=False, ignore_eos=True),
        adapter=adapter,
    )
    *_, last = model.stream(request)
    assert last.usage is not None
    return last.usage.prompt_tokens + last.usage.completion_tokens


def test_room_of_a_request_beside_its_adapter(
    model: TorchModel, directory: Path, adapters: dict[str, Path]
) -> None:
    """Adapters at the start get room of their own; a later one takes its positions from its requests."""
    assert longest(model, None) == CONTEXT
    for name, path in adapters.items():
        model.add_adapter(name, path)
    assert [longest(model, name) for name in (None, "five", "nine")] == [CONTEXT, CONTEXT - 5, CONTEXT - 9]
    started = opened(directory, {"five": adapters["five"]})
    started.add_adapter("nine", adapters["nine"])
    assert [longest(started, name) for name in (None, "five", "nine")] == [CONTEXT, CONTEXT, CONTEXT - 4]
    started.close()


def test_question_without_room_beside_its_adapter_is_refused(
    model: TorchModel, adapters: dict[str, Path]
) -> None:
    """It fits the base model; with the adapter the message says what is in its way."""
    model.add_adapter("nine", adapters["nine"])
    text = "hello " * (CONTEXT - len(model.tokenizer.encode_chat([Message("user", "")])) - 8)
    length = len(model.tokenizer.encode_chat([Message("user", text)]))
    assert CONTEXT - 9 <= length < CONTEXT
    assert len(tokens(model.stream(ask(None, text=text)))) == CONTEXT - length
    with pytest.raises(RequestError, match=containing(f"{length} tokens", str(CONTEXT - 9), "adapter")):
        model.stream(ask("nine", text=text))


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 50])
def test_adapter_longer_than_the_cache_is_refused(
    model: TorchModel, directory: Path, tmp_path: Path, length: int
) -> None:
    """The message names the adapter's positions and the cache's; nothing is listed."""
    path = write_adapter(tmp_path / "long", directory, pre_seq_len=length)
    with pytest.raises(
        AdapterError,
        match=containing("adapter 'long'", f"{length} positions", str(CONTEXT), "--context-length"),
    ):
        model.add_adapter("long", path)
    assert model.info.adapters == ()


# --- refusals ------------------------------------------------------------------------------------


def test_taken_and_unknown_names_are_refused(model: TorchModel, adapters: dict[str, Path]) -> None:
    """Nothing is replaced, and nothing else is removed."""
    model.add_adapter("five", adapters["five"])
    with pytest.raises(AdapterError, match=containing("adapter 'five'", "loaded already", "remove")):
        model.add_adapter("five", adapters["nine"])
    with pytest.raises(AdapterError, match="adapter 'nine' is not loaded"):
        model.remove_adapter("nine")
    assert model.info.adapters == ("five",)


def test_damaged_adapter_leaves_the_model_as_it_was(
    model: TorchModel, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Files that cannot be read, or are of another model, add nothing and end nothing."""
    other = tiny_checkpoint(tmp_path / "other", num_layers=3)
    running = model.stream(ask(None, 40))
    for path in (tmp_path, write_adapter(tmp_path / "adapter", other)):
        with pytest.raises(AdapterError):
            model.add_adapter("bad", path)
    assert model.info.adapters == ()
    assert len(tokens(running)) == 40


def test_adapter_that_does_not_fit_into_memory_is_refused(
    model: TorchModel, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's refusal becomes one sentence; any other failure stays what it is."""
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def refuse(*_: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(PrefixEncoder, "lay_out", refuse)
    with pytest.raises(OutOfMemoryError, match=containing("adapter 'five'", "memory", "5 positions")):
        model.add_adapter("five", adapters["five"])
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        model.add_adapter("five", adapters["five"])
    assert model.info.adapters == ()


def test_adapters_of_a_model_without_an_engine_cannot_change(
    model: TorchModel, adapters: dict[str, Path]
) -> None:
    """After close, adding and removing say so."""
    model.add_adapter("five", adapters["five"])
    model.close()
    with pytest.raises(ClosedError, match="the model was closed"):
        model.add_adapter("nine", adapters["nine"])
    with pytest.raises(ClosedError, match="the model was closed"):
        model.remove_adapter("five")


def test_model_that_closes_while_an_adapter_is_read_takes_it_no_more(
    model: TorchModel, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter comes too late, and that is what its caller is told."""
    read = vars(model_module)["load_adapter"]

    def read_and_close(*arguments: Any) -> StoredAdapter:
        stored = read(*arguments)
        model.close()
        return stored

    monkeypatch.setattr(model_module, "load_adapter", read_and_close)
    with pytest.raises(ClosedError, match="the model was closed"):
        model.add_adapter("five", adapters["five"])


# --- company -------------------------------------------------------------------------------------


def test_answers_go_on_while_an_adapter_is_read(
    model: TorchModel, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the disk takes, requests are accepted and answered meanwhile."""
    gate, read = Gate(), vars(model_module)["load_adapter"]

    def slow(*arguments: Any) -> StoredAdapter:
        gate()
        return read(*arguments)

    monkeypatch.setattr(model_module, "load_adapter", slow)
    adding = threading.Thread(target=model.add_adapter, args=("five", adapters["five"]))
    adding.start()
    assert gate.reached.wait(PATIENCE_SECONDS)
    assert len(tokens(model.stream(ask(None, 30)))) == 30
    assert model.info.adapters == ()
    gate.open()
    join(adding)
    assert model.info.adapters == ("five",)


def test_adapter_is_added_while_a_step_takes_long(model: TorchModel, adapters: dict[str, Path]) -> None:
    """Adding and removing wait for no decode step."""
    gate = held(model)
    running = model.stream(ask(None))
    assert gate.reached.wait(PATIENCE_SECONDS)
    model.add_adapter("five", adapters["five"])
    model.remove_adapter("five")
    gate.open()
    assert len(tokens(running)) == 12


def test_threads_may_change_adapters_at_the_same_time(model: TorchModel, adapters: dict[str, Path]) -> None:
    """Nothing is lost between them, a name goes to one of them, and every list that is seen is whole."""
    seen: set[tuple[str, ...]] = set()
    refused: list[AdapterError] = []

    def change(number: int) -> None:
        for _ in range(5):
            model.add_adapter(f"own-{number}", adapters["five"])
            info: ModelInfo = model.info
            seen.add(info.adapters)
            assert f"own-{number}" in info.adapters
            model.remove_adapter(f"own-{number}")
        model.add_adapter(f"own-{number}", adapters["five"])
        try:
            model.add_adapter("shared", adapters["nine"])
        except AdapterError as error:
            refused.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert sorted(model.info.adapters) == ["own-0", "own-1", "own-2", "own-3", "shared"]
    assert len(refused) == 3
    assert all(len(set(names)) == len(names) for names in seen)
