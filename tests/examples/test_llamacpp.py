"""The llama.cpp runtime on a tiny model: prompts, sampling, room, and what is wrong with a file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from glm_testing import make_host
from tiny_gguf import LONG_PIECE, open_gguf, write_tiny_gguf

from glm_core import (
    AdapterError,
    ChatModel,
    ChatRequest,
    CheckpointError,
    ConfigError,
    Delta,
    DeviceError,
    Message,
    OutOfMemoryError,
    RequestError,
    Sampling,
)
from glm_core.chat_model import collect
from glm_core.config import Settings
from glm_core.routing import open_model

GREEDY = Sampling(do_sample=False, max_new_tokens=16)
FREE = Sampling(do_sample=True, temperature=3.0, top_p=1.0, top_k=0, max_new_tokens=16)


@pytest.fixture(scope="module")
def model(llamacpp: ModuleType, tiny_gguf: Path) -> Iterator[ChatModel]:
    """The tiny model, open on its device."""
    with open_gguf(llamacpp, tiny_gguf) as opened:
        yield opened


def ask(
    model: ChatModel, text: str = "how are you", sampling: Sampling = GREEDY, **fields: Any
) -> tuple[str, Delta]:
    """The text of an answer and its last delta."""
    return collect(model.stream(ChatRequest((Message("user", text),), sampling, **fields)))


def ids(model: ChatModel, request: ChatRequest) -> list[int]:
    """The tokens of an answer."""
    return [token for delta in model.stream(request) for token in delta.token_ids]


def vocabulary(model: ChatModel) -> Any:
    """What the example knows of the tokens."""
    loaded: Any = model.loaded
    return loaded._vocabulary


def written(model: ChatModel, *messages: Message) -> str:
    """The prompt that a conversation becomes."""
    from glm_runtime_llamacpp._prompt import encode_chat

    tokens = encode_chat(vocabulary(model), messages)
    return b"".join(vocabulary(model).decode_token(token) for token in tokens).decode()


def test_facts_are_those_of_the_file(model: ChatModel, tiny_gguf: Path) -> None:
    """Name, family, size, room and place."""
    info = model.info
    assert (info.name, info.family, info.context_length) == (str(tiny_gguf), "llama", 512)
    assert (info.devices, info.dtype) == (("llamacpp",), "float32")
    assert 0 < info.num_parameters * 4 <= info.weight_bytes + 4096


def test_template_of_the_file_makes_the_prompt(model: ChatModel) -> None:
    """With the token that begins a sequence once, although template and tokenizer both would add it."""
    messages = (Message("system", "be brief"), Message("user", "hi"))
    assert written(model, *messages).strip() == "[system] be brief\n[user] hi\n[assistant]"
    first, second, *_ = vocabulary(model).encode("<s>hi", special=True)
    assert (first, second) != (1, 1)
    assert first == 1


def test_file_without_template_gets_plain_lines(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """And its answer ends where it begins to speak for the user."""
    from glm_runtime_llamacpp._prompt import make_prompt

    file = write_tiny_gguf(tiny_gguf.with_name("plain.gguf"), template=None)
    with open_gguf(llamacpp, file) as model:
        assert written(model, Message("user", "hi")).strip() == "User: hi\nAssistant:"
        request = ChatRequest((Message("user", "hi"),), stop=("x",))
        prompt = make_prompt(vocabulary(model), request, model.info.sampling, 512)
        assert prompt.stop == ("x", "\nUser:")
        assert ask(model)[1].finish_reason == "length"


def test_template_that_refuses_is_one_sentence(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """With the template's own reason."""
    template = "{{ raise_exception('roles must alternate') }}"
    file = write_tiny_gguf(tiny_gguf.with_name("refusing.gguf"), template=template)
    with open_gguf(llamacpp, file) as model, pytest.raises(RequestError, match="roles must alternate"):
        ask(model)


def test_oldest_rounds_are_dropped(model: ChatModel) -> None:
    """Questions go with their answers; the system message and the last question stay."""
    from glm_runtime_llamacpp._prompt import make_prompt

    rounds = [Message(role, f"{number} {'a' * 40}") for number in range(12) for role in ("user", "assistant")]
    messages = (Message("system", "stay"), *rounds, Message("user", "last"))
    request = ChatRequest(messages, GREEDY)
    _, end = collect(model.stream(request))
    assert end.usage is not None
    dropped = end.usage.dropped_messages
    assert 0 < dropped < len(rounds)
    assert dropped % 2 == 0
    prompt = make_prompt(vocabulary(model), request, GREEDY.complete_with(model.info.sampling), 512)
    assert list(prompt.token_ids) == vocabulary(model).encode(
        vocabulary(model).template.render(
            [{"role": each.role, "content": each.content} for each in (messages[0], *messages[1 + dropped :])]
        ),
        special=True,
    )


@pytest.mark.parametrize("kind", ["messages", "text"])
def test_question_that_does_not_fit_is_refused(model: ChatModel, kind: str) -> None:
    """With the number of its tokens and the room; a smaller ``max_length`` counts as well."""
    short = Sampling(max_length=8)
    request = (
        ChatRequest((Message("user", "x" * 20),), short)
        if kind == "messages"
        else ChatRequest(prompt="x" * 20, sampling=short)
    )
    with pytest.raises(RequestError, match="8 is the room"):
        model.stream(request)
    assert ask(model, sampling=Sampling(max_length=60))[1].finish_reason in ("stop", "length")


def test_token_ids_are_taken_as_they_are(model: ChatModel) -> None:
    """Those of a text give what the text gives; one that the vocabulary lacks is refused."""
    tokens = vocabulary(model).encode("how are", special=False)
    by_text = ids(model, ChatRequest(prompt="how are", sampling=GREEDY))
    assert ids(model, ChatRequest(prompt=tuple(tokens), sampling=GREEDY)) == by_text
    with pytest.raises(RequestError, match="vocabulary"):
        model.stream(ChatRequest(prompt=(10**6,)))


def test_piece_of_a_long_token_is_whole(model: ChatModel) -> None:
    """Tokens may have more bytes than a small buffer."""
    known = vocabulary(model)
    assert LONG_PIECE.encode() in [known.decode_token(token) for token in range(known.size)]


def test_chance_is_the_seeds(model: ChatModel) -> None:
    """Without a seed every answer is another; seeds of all sizes are taken."""
    assert len({ask(model, sampling=FREE)[0] for _ in range(4)}) > 1
    seeds = (0, 2**32 - 1, 2**63 - 1)
    for seed in seeds:
        assert ask(model, sampling=FREE, seed=seed)[0] == ask(model, sampling=FREE, seed=seed)[0]


@pytest.mark.parametrize(
    "narrow", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}, {"do_sample": False}], ids=str
)
def test_each_way_to_leave_nothing_to_chance(model: ChatModel, narrow: dict[str, Any]) -> None:
    """All mean the most likely token."""
    sampling = Sampling(**{"temperature": 2.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 16, **narrow})
    assert ask(model, sampling=sampling, seed=1)[0] == ask(model)[0]


def test_repetition_penalty_counts_prompt_and_answer(model: ChatModel) -> None:
    """A huge one lets no token come that was there."""
    request = ChatRequest(prompt="how are you", sampling=Sampling(repetition_penalty=1e6, max_new_tokens=24))
    prompt = vocabulary(model).encode("how are you", special=False)
    answer = ids(model, request)
    assert len({*prompt, *answer}) == len(set(prompt)) + len(answer)


def test_presence_penalty_counts_the_answer_alone(model: ChatModel) -> None:
    """It changes an answer that repeats itself, and never its first token."""
    plain = Sampling(do_sample=False, max_new_tokens=200, ignore_eos=True)
    prompt = ChatRequest(prompt="how are you", sampling=plain)
    base = ids(model, prompt)
    for penalties in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        request = ChatRequest(prompt=prompt.prompt, sampling=Sampling(**penalties).complete_with(plain))  # type: ignore[arg-type]
        penalised = ids(model, request)
        assert penalised[0] == base[0]
        assert penalised != base


def test_end_of_an_answer_can_be_passed_over(model: ChatModel) -> None:
    """``ignore_eos`` goes on to the length, for benchmarks; otherwise some answers end before it."""
    long = Sampling(do_sample=True, temperature=50.0, top_p=1.0, top_k=0, max_new_tokens=300)
    reasons = set()
    for seed in range(6):
        reasons.add(ask(model, sampling=long, seed=seed)[1].finish_reason)
        end = ask(model, sampling=Sampling(ignore_eos=True).complete_with(long), seed=seed)[1]
        assert end.usage is not None
        assert (end.finish_reason, end.usage.completion_tokens) == ("length", 300)
    assert "stop" in reasons


def test_conversation_is_not_read_anew(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """Whole pieces of the prompt are kept; the answer is the one that a fresh model gives."""
    question = "how are you " * 30
    with open_gguf(llamacpp, tiny_gguf) as fresh:
        expected, end = ask(fresh, question)
        assert end.usage is not None
        assert end.usage.cached_tokens == 0
        ask(fresh, "what")
        ask(fresh, question)
        again, end = ask(fresh, question)
        assert end.usage is not None
        assert (again, end.usage.cached_tokens) == (expected, 256)


def test_room_is_what_was_asked_for(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """``--context-length`` is kept, and the user told; several slots are one, and the user told."""
    notices: list[str] = []
    with open_gguf(llamacpp, tiny_gguf, notices, context_length=100, slots=4) as model:
        assert model.info.context_length == 100
        assert model.load is not None
        assert (model.load.slots, model.load.kv_capacity) == (1, 100)
        end = ask(model, sampling=Sampling(max_new_tokens=500, ignore_eos=True))[1]
        assert end.usage is not None
        assert end.usage.prompt_tokens + end.usage.completion_tokens == 100
    assert any("100 tokens" in notice for notice in notices)
    assert any("not 4" in notice for notice in notices)


def test_long_model_gets_modest_room(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """llama.cpp takes memory for the whole cache at once, so a long one is only had by asking."""
    file = write_tiny_gguf(tiny_gguf.with_name("long.gguf"), context_length=100_000)
    with open_gguf(llamacpp, file) as model:
        assert model.info.context_length == 8192
        assert model.info.sampling.max_length == 8192


def test_what_it_cannot_do_is_refused(llamacpp: ModuleType, tiny_gguf: Path, tmp_path: Path) -> None:
    """Before anything is answered: adapters, a cache limited in bytes, quantising."""
    host = make_host(runtime_llamacpp=llamacpp)
    with pytest.raises(AdapterError, match="adapter"):
        open_model(host, Settings(model=str(tiny_gguf)), adapters={"poet": tmp_path})
    with pytest.raises(ConfigError, match="--context-length"):
        open_gguf(llamacpp, tiny_gguf, kv_memory=1.0)
    with pytest.raises(DeviceError, match="int4"):
        open_gguf(llamacpp, tiny_gguf, quantize="int4")


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_damaged_file_is_refused_with_the_reason(
    llamacpp: ModuleType, tiny_gguf: Path, tmp_path: Path, damage: str
) -> None:
    """llama.cpp's own reason, and no line of it on the screen."""
    content = tiny_gguf.read_bytes()
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content[: len(content) - 5000] if damage == "cut" else content[:4] + b"\xff" * 400)
    with pytest.raises(CheckpointError, match=r"damaged\.gguf: .{10,}\. The file is damaged"):
        open_gguf(llamacpp, file)


def test_template_that_is_no_program_is_refused(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """By the first conversation, in one sentence; bare text can still be gone on with."""
    file = write_tiny_gguf(tiny_gguf.with_name("syntax.gguf"), template="{% if %}")
    with open_gguf(llamacpp, file) as model:
        with pytest.raises(RequestError, match="chat template"):
            ask(model)
        assert ids(model, ChatRequest(prompt="how are you", sampling=GREEDY))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**10 }}",  # a constant, which is computed when the template is compiled
        "{% for m in messages %}{{ m.content * 10**9 }}{% endfor %}",
        "{% for m in range(10**5) %}{{ 'a' * 1000 }}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_template_without_end_is_stopped(
    llamacpp: ModuleType, tiny_gguf: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file costs this process neither time nor memory, and what needs no template is answered."""
    monkeypatch.setattr("glm_runtime_llamacpp._template.PROCESSOR_SECONDS", 1)
    file = write_tiny_gguf(tiny_gguf.with_name("endless.gguf"), template=template)
    before = time.process_time()
    with open_gguf(llamacpp, file) as model:
        for _ in range(2):  # the process that was ended is replaced
            with pytest.raises(RequestError, match="chat template"):
                ask(model)
        assert ids(model, ChatRequest(prompt="how are you", sampling=GREEDY))
    assert time.process_time() - before < 5


def test_model_that_does_not_fit_says_so(
    llamacpp: ModuleType, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With llama.cpp's reason and what to do, as an error of memory and not of the file."""
    with open_gguf(llamacpp, tiny_gguf):
        from glm_runtime_llamacpp import _binding

    def fail(*_: object, **__: object) -> None:
        _binding._note_complaint(4, b"failed to allocate buffer of size 99", None)
        raise ValueError("Failed to create llama_context")

    monkeypatch.setattr(_binding, "_Llama", fail)
    with pytest.raises(OutOfMemoryError, match=r"buffer of size 99.*--context-length"):
        open_gguf(llamacpp, tiny_gguf)


def test_model_that_only_encodes_is_refused(
    llamacpp: ModuleType, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its architecture is named."""
    with open_gguf(llamacpp, tiny_gguf):
        from glm_runtime_llamacpp import _binding
    monkeypatch.setattr(_binding.api, "llama_model_has_encoder", lambda model: True)
    with pytest.raises(CheckpointError, match="'llama'"):
        open_gguf(llamacpp, tiny_gguf)


@pytest.mark.parametrize(
    ("weight_bytes", "setting", "expected"), [(2**20, "3", 1), (2**30, "3", 3), (2**30, "", None)]
)
def test_threads_are_those_that_help(
    llamacpp: ModuleType,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    weight_bytes: int,
    setting: str,
    expected: int | None,
) -> None:
    """One for a small model; for others what the user says, or what the process may use."""
    from glm_runtime_llamacpp._binding import count_threads

    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert count_threads(weight_bytes) == (expected or len(os.sched_getaffinity(0)))
