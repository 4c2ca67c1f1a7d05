"""The engine against the original's greedy runs, and what callers on threads rely on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.families import registry as families
from glm_runtime_torch.model.directory import open_directory
from glm_runtime_torch.model.torch_model import TorchModel
from goldens import DATA, PAD, Case, cases, named
from hypothesis import HealthCheck, given, settings, strategies as st
from key_words import containing
from patience import join, wait_until
from streams import close_stream
from tiny_models import finished, open_with_prompt, tiny_checkpoint

from glm_core import AdapterError, ChatRequest, ClosedError, Delta, Message, RequestError, Sampling
from glm_core.chat_model import collect
from glm_core.records import ModelSource

CPU = torch.device("cpu")
V1 = DATA / "chatglm-6b"
QUESTION = (Message("user", "x"),)


def greedy(max_new_tokens: int, adapter: str | None = None) -> ChatRequest:
    return ChatRequest(QUESTION, Sampling(do_sample=False, max_new_tokens=max_new_tokens), adapter=adapter)


def token_ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


GREEDY = [*named("chatglm-6b", "greedy", at_least=9), *named("quantization", "greedy", at_least=3)]


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_tokens_equal_the_original(case: Case) -> None:
    """Every row alone gives the original's tokens: plain, padded, P-tuned, 28 layers deep, quantised."""
    folder = DATA / "quantization" if case.name.startswith("int") else V1
    directory = folder / case.settings.get("checkpoint", "ckpt/fp16-safetensors")
    adapter = case.settings.get("ptuning_dir", "").removeprefix("ptuning-") or None
    end = case.settings["eos_token_id"]
    for row, expected in zip(case["input_ids"].tolist(), case["sequences"].tolist(), strict=True):
        prompt = [token for token in row if token != PAD]
        answer = expected[len(row) :]
        if end in answer:
            answer = answer[: answer.index(end)]
        adapters = {adapter: V1 / f"ptuning-{adapter}"} if adapter else {}
        model = open_with_prompt(directory, prompt, [] if end is None else [end], adapters=adapters)
        deltas = list(model.stream(greedy(case.settings["max_new_tokens"], adapter)))
        assert token_ids(deltas) == answer
        assert deltas[-1].finish_reason == (
            "length" if len(answer) == case.settings["max_new_tokens"] else "stop"
        )
        model.close()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[TorchModel]:
    directory = tiny_checkpoint(tmp_path / "model")
    opened = open_directory(ModelSource("tiny", directory), directory, families.CHATGLM, torch.float32)
    opened.materialize(CPU)
    opened.start(CPU, slots=4)
    yield opened
    opened.close()


def test_stream_ends_with_one_final_delta(model: TorchModel) -> None:
    """Only the last delta has a finish reason and usage; the counts add up."""
    deltas = list(model.stream(greedy(5)))
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.completion_tokens == len(token_ids(deltas))
    assert usage.prompt_tokens == len(model.tokenizer.encode_chat(QUESTION))
    assert usage.time_to_first_token > 0


def test_batch_decodes_what_single_rows_decode(model: TorchModel) -> None:
    """Sequences of different lengths in one decode batch give the logits that they get alone."""
    questions = ["你好", "hello world how do I quantise a model", "晚上睡不着应该怎么办"]
    engine = model.engine
    alone, together = [], []
    with torch.inference_mode():
        for question in questions:
            request = ChatRequest((Message("user", question),), Sampling(do_sample=False, max_new_tokens=8))
            sequences = [engine.prepare(request) for _ in range(2)]
            slots = [engine.slots.acquire() for _ in sequences]
            for sequence, slot in zip(sequences, slots, strict=True):
                sequence.advance(finished(engine.runner.prefill(sequence, slot)))
            alone.append(engine.runner.decode([sequences[0]], [slots[0]])[0])
            engine.slots.release(slots[0])
            together.append((sequences[1], slots[1]))
        batch = engine.runner.decode([sequence for sequence, _ in together], [slot for _, slot in together])
    torch.testing.assert_close(batch, torch.stack(alone), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def tuned() -> Iterator[TorchModel]:
    """A checkpoint with two adapters, on three slots."""
    case = next(case for case in cases("chatglm-6b") if case.name == "ptuning_emb_greedy_24")
    adapters = {"emb": V1 / "ptuning-emb", "proj": V1 / "ptuning-proj"}
    model = open_with_prompt(V1 / "ckpt" / "fp16-bin", case["input_ids"][0].tolist(), adapters=adapters)
    tokenizer = model.tokenizer
    prompt = tokenizer.prompt  # type: ignore[attr-defined]
    # the question's number decides how much of the prompt's text is left out
    tokenizer.encode_chat = lambda messages: prompt[int(messages[-1].content) :]  # type: ignore[method-assign]
    yield model
    model.close()


ASKED = st.builds(
    lambda cut, length, adapter, seed: ChatRequest(
        (Message("user", str(cut)),),
        Sampling(max_new_tokens=length, temperature=1.5, top_k=0, top_p=0.9),
        adapter=adapter,
        seed=seed,
    ),
    st.integers(0, 3),
    st.integers(1, 12),
    st.sampled_from([None, "emb", "proj"]),
    st.integers(0, 5),
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    requests=st.lists(st.tuples(ASKED, st.none() | st.integers(0, 4)), min_size=1, max_size=8),
    data=st.data(),
)
def test_every_request_gets_what_it_gets_alone(
    tuned: TorchModel, requests: list[tuple[ChatRequest, int | None]], data: st.DataObject
) -> None:
    """Whatever joins, leaves or is cancelled meanwhile, the same seed gives the same tokens and text."""
    alone = [list(tuned.stream(request)) for request, _ in requests]
    open_streams: dict[int, Iterator[Delta]] = {}
    read: dict[int, list[Delta]] = {number: [] for number in range(len(requests))}
    waiting = list(range(len(requests)))
    while waiting or open_streams:
        choices: list[int | str] = [*open_streams, *(["join"] if waiting else [])]
        choice = data.draw(st.sampled_from(choices))
        if choice == "join":
            number = waiting.pop(0)
            open_streams[number] = tuned.stream(requests[number][0])
            continue
        assert isinstance(choice, int)
        cancel_after = requests[choice][1]
        if cancel_after is not None and len(token_ids(read[choice])) >= cancel_after:
            close_stream(open_streams.pop(choice))
            continue
        delta = next(open_streams[choice], None)
        if delta is None:
            open_streams.pop(choice)
        elif delta.token_ids or delta.finish_reason:  # not what a waiting request is told
            read[choice].append(delta)
    for number, (_, cancel_after) in enumerate(requests):
        expected, got = token_ids(alone[number]), token_ids(read[number])
        assert got == (expected if cancel_after is None else expected[: len(got)])
        if cancel_after is None:
            assert [delta.text for delta in read[number]] == [delta.text for delta in alone[number]]


def test_threads_get_the_answers_they_get_alone(model: TorchModel) -> None:
    """Eight threads on four slots each get the answer that the same request gets alone."""
    requests = [
        ChatRequest((Message("user", f"hello {number}"),), Sampling(max_new_tokens=12), seed=number)
        for number in range(8)
    ]
    expected = [collect(model.stream(request))[0] for request in requests]
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=number: answers.update({n: collect(model.stream(requests[n]))[0]}))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    join(*threads)
    assert [answers[number] for number in range(8)] == expected
    wait_until(lambda: model.engine.slots.num_free == 4)


def test_closing_a_stream_frees_its_slot(model: TorchModel) -> None:
    """A stream closed after its first delta gives its slot back, and reads as ended."""
    stream = model.stream(greedy(200))
    next(stream)
    assert model.engine.slots.num_free == 3
    close_stream(stream)
    assert list(stream) == []
    wait_until(lambda: model.engine.slots.num_free == 4)


def test_dropped_streams_are_cancelled(model: TorchModel) -> None:
    """A stream that nobody holds any more takes no slot from others."""
    for _ in range(10):
        model.stream(greedy(200))
    wait_until(lambda: model.engine.slots.num_free == 4)
    assert model.load.active == model.load.waiting == 0


def test_seed_repeats_and_no_seed_varies(model: TorchModel) -> None:
    """The same seed gives the same answer; without a seed answers differ."""

    def answer(seed: int | None) -> str:
        request = ChatRequest(
            QUESTION, Sampling(max_new_tokens=12, temperature=2.0, top_p=1.0, top_k=0), seed=seed
        )
        return collect(model.stream(request))[0]

    assert answer(5) == answer(5)
    assert len({answer(None) for _ in range(6)}) > 1


def test_stop_string_ends_the_answer(model: TorchModel) -> None:
    """The answer ends before a stop string, with reason stop."""
    whole, _ = collect(model.stream(greedy(20)))
    middle = whole[len(whole) // 2 :][:2]
    text, last = collect(
        model.stream(ChatRequest(QUESTION, Sampling(do_sample=False, max_new_tokens=20), stop=(middle,)))
    )
    assert text == whole[: whole.index(middle)].rstrip()
    assert last.finish_reason == "stop"


def test_too_long_question_is_refused_before_anything_runs(model: TorchModel) -> None:
    """A question beyond max_length gives one sentence with both numbers."""
    request = ChatRequest((Message("user", "hello " * 200),), Sampling(max_length=50))
    with pytest.raises(RequestError, match=containing("question", "max_length 50", "at most 49")):
        model.stream(request)


def test_oldest_rounds_are_dropped_with_a_notice(model: TorchModel) -> None:
    """History that does not fit is dropped from its oldest round on, and the usage says so."""
    history = [Message("user" if n % 2 == 0 else "assistant", "hello world " * 4) for n in range(12)]
    request = ChatRequest((*history, Message("user", "你好")), Sampling(max_length=200, max_new_tokens=20))
    _, last = collect(model.stream(request))
    assert last.usage is not None
    assert 0 < last.usage.dropped_messages < 12
    assert last.usage.dropped_messages % 2 == 0
    assert last.usage.prompt_tokens + last.usage.completion_tokens <= 200


def test_unknown_adapter_is_refused(model: TorchModel) -> None:
    """An adapter that is not loaded is named."""
    with pytest.raises(AdapterError, match="'none-such' is not loaded"):
        model.stream(greedy(5, "none-such"))


def test_closed_model_ends_running_answers_and_refuses_new_ones(model: TorchModel) -> None:
    """After close, running and waiting streams end with ClosedError and new requests raise it."""
    streams = [model.stream(greedy(200)) for _ in range(6)]
    next(streams[0])
    model.close()
    for stream in streams:
        with pytest.raises(ClosedError, match="closed while it was answering"):
            list(stream)
        assert list(stream) == []
    with pytest.raises(ClosedError, match="the model was closed"):
        model.stream(greedy(5))


def test_bare_text_is_continued_without_a_chat_format(model: TorchModel) -> None:
    """A prompt is encoded as it is, its text is not cleaned, and one that is too long is refused."""
    request = ChatRequest(prompt="你好", sampling=Sampling(do_sample=False, max_new_tokens=6))
    text, last = collect(model.stream(request))
    tokens = token_ids(list(model.stream(request)))
    assert text == model.tokenizer.decode(tokens)
    assert last.usage is not None
    assert last.usage.prompt_tokens == len(model.tokenizer.encode_completion("你好"))
    with pytest.raises(RequestError, match=containing("prompt", "max_length 9", "at most 8")):
        model.stream(ChatRequest(prompt="hello " * 50, sampling=Sampling(max_length=9)))


def test_ignore_eos_goes_on_to_the_length(model: TorchModel) -> None:
    """With ignore_eos an answer has exactly the tokens asked for."""
    model.tokenizer.stop_token_ids = frozenset(range(model.tokenizer.vocab_size + 8))
    assert token_ids(list(model.stream(greedy(9)))) == []
    request = ChatRequest(QUESTION, Sampling(do_sample=False, max_new_tokens=9, ignore_eos=True))
    assert len(token_ids(list(model.stream(request)))) == 9


def test_model_before_placement_cannot_answer(tmp_path: Path) -> None:
    """Chatting with a model that has no weights in memory yet is refused."""
    directory = tiny_checkpoint(tmp_path / "model")
    opened = open_directory(ModelSource("tiny", directory), directory, families.CHATGLM, torch.float32)
    with pytest.raises(ClosedError, match="has not been placed"):
        opened.stream(greedy(5))
