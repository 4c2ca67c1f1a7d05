"""Fitting a long history: the same result as by trying every length, and in linear time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from glm_runtime_torch.families.registry import FAMILIES
from glm_runtime_torch.generation.prompt import fit_prompt
from glm_runtime_torch.tokenizers import ChatTokenizer, ToolTokenizer
from hypothesis import HealthCheck, given, settings, strategies as st
from patience import PATIENCE_SECONDS
from scripted_engine import CountingNetwork, NumberTokenizer, counting_engine
from tiny_families import MAKERS

from glm_core import ChatRequest, Message, RequestError, Sampling, Tool, ToolCall
from glm_core.listening import Ended, ListenerEvent, StreamListener

FAMILY_NAMES = [family.name for family in FAMILIES]
DEFAULTS = Sampling(max_length=2048, do_sample=False)
TOOL = Tool("look", "looks", {"type": "object", "properties": {"q": {"type": "string"}}})
# What formats and vocabularies treat apart: line ends, blanks, control tokens typed as text, combining marks.
PIECES = (
    *(
        "hello",
        "你好",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "é",
        "e\u0301",
        "[Round 1]",
        "问：",
        "答：",
        "。",
        "\u3000",
    ),
    *("<|user|>", "<|assistant|>", "[gMASK]", "a", "\U0001f600", "9", "10", "\u3000", "ﬀ", "\ue0000\ue001"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every family's tokenizer, of its tiny checkpoint."""
    return {
        family.name: family.read_tokenizer(MAKERS[family.name](tmp_path_factory.mktemp("tiny") / "model"))
        for family in FAMILIES
    }


def fit_slowly(
    tokenizer: Any, messages: Sequence[Message], limit: int, room: int, tools: Sequence[Tool]
) -> tuple[list[int], int]:
    """What fitting means: leave out one round more until it fits, each time encoding everything."""
    system = [message for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    dropped = 0
    while True:
        kept = [*system, *rest[dropped:]]
        ids = tokenizer.encode_chat(kept, tools) if tools else tokenizer.encode_chat(kept)
        following = next((i for i in range(dropped + 1, len(rest)) if rest[i].role == "user"), None)
        if len(ids) + room <= limit or following is None:
            return ids, dropped
        dropped = following


@st.composite
def conversations(draw: st.DrawFn, *, with_tools: bool) -> list[Message]:
    """Draw a conversation in any order that a request may have."""
    messages = [Message("system", text) for text in draw(st.lists(TEXTS, max_size=2))]
    numbers = itertools.count()
    for _ in range(draw(st.integers(0, 9))):
        messages += [Message("user", text) for text in draw(st.lists(TEXTS, max_size=2))]
        if with_tools and draw(st.booleans()):
            call = ToolCall(f"c{next(numbers)}", "look", '{"q": "x"}')
            messages += [
                Message("assistant", draw(TEXTS), (call,)),
                Message("tool", "22", tool_call_id=call.id),
            ]
        messages += [Message("assistant", text) for text in draw(st.lists(TEXTS, max_size=2))]
    return [*messages, Message("user", f"{draw(TEXTS)}?")]


@pytest.mark.parametrize("name", FAMILY_NAMES)
@given(data=st.data(), limit=st.integers(8, 260), room=st.integers(1, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_is_fitted_as_by_trying_every_length(
    name: str, tokenizers: dict[str, Any], data: st.DataObject, limit: int, room: int
) -> None:
    """In every family's format the fewest rounds go, and the prompt is the one of what is kept."""
    tokenizer = tokenizers[name]
    is_tool_tokenizer = isinstance(tokenizer, ToolTokenizer)
    messages = data.draw(conversations(with_tools=is_tool_tokenizer))
    tools = (TOOL,) if is_tool_tokenizer and data.draw(st.booleans()) else ()
    sampling = Sampling(max_length=limit, max_new_tokens=room).complete_with(DEFAULTS)
    kept_room = min(room, max(1, limit // 4))
    ids, dropped = fit_slowly(tokenizer, messages, limit, kept_room, tools)

    def fit() -> tuple[list[int], int]:
        found = fit_prompt(tokenizer, messages, sampling, requested=sampling, capacity=10_000, tools=tools)
        return list(found.token_ids), found.dropped_messages

    if len(ids) >= limit:
        with pytest.raises(RequestError, match=f"{len(ids)} tokens"):
            fit()
    else:
        assert fit() == (ids, dropped)


class Counted:
    """A tokenizer that counts the characters that it is given to encode."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self.characters = 0
        self.conversations = 0

    def encode(self, text: str) -> list[int]:
        """Count and encode."""
        self.characters += len(text)
        return self._tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Count and encode."""
        self.characters += sum(len(message.content) for message in messages)
        self.conversations += 1
        return self._tokenizer.encode_chat(messages)


def even(number: int) -> str:
    """Rounds of about one length."""
    return f"hello {number} " * 10


def uneven(number: int) -> str:
    """Rounds of very different lengths."""
    return "hello " * (number * 7919 % 97)


def one_huge(number: int) -> str:
    """One round is longer than all others together, right where what fits begins."""
    return "hello " * (20_000 if number == 293 else 10)


@pytest.mark.parametrize("text_of", [even, uneven, one_huge])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_long_histories_are_encoded_a_few_times(
    name: str, text_of: Callable[[int], str], tokenizers: dict[str, Any]
) -> None:
    """Of 300 rounds every text is encoded four times at most, whatever their lengths."""
    rounds = [
        message
        for number in range(300)
        for message in (Message("user", text_of(number)), Message("assistant", f"{number} hello"))
    ]
    messages = (*rounds, Message("user", "hello?"))
    counted: Any = Counted(tokenizers[name])
    sampling = Sampling(max_length=400, max_new_tokens=40).complete_with(DEFAULTS)
    found = fit_prompt(counted, messages, sampling, requested=sampling, capacity=10_000)
    whole = sum(len(message.content) for message in messages)
    assert counted.characters <= 4 * whole
    assert counted.conversations <= 12
    ids, dropped = fit_slowly(tokenizers[name], messages[found.dropped_messages - 2 :], 400, 40, ())
    assert (list(found.token_ids), 2) == (ids, dropped)


class SlowNumbers(NumberTokenizer):
    """Counts encoded conversations, and lets a test hold one up."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.lengths: list[int] = []

    def encode(self, text: str) -> list[int]:
        """As many tokens as characters."""
        self.lengths.append(-1)
        return [1] * len(text)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ten tokens a message, once the test lets it."""
        self.lengths.append(len(messages))
        self.started.set()
        assert self.go_on.wait(PATIENCE_SECONDS)
        return [*[7] * (10 * len(messages)), int(messages[-1].content)]


def long_chat(rounds: int = 9) -> tuple[Message, ...]:
    """A conversation that does not fit into 64 tokens."""
    history = [Message("user", "1"), Message("assistant", "2")] * rounds
    return (*history, Message("user", "5"))


def test_answers_to_one_conversation_share_their_prompt() -> None:
    """Eight requests over the same messages fit them once; another conversation is fitted by itself."""
    engine = counting_engine(CountingNetwork(), slots=8)
    tokenizer = SlowNumbers()
    tokenizer.go_on.set()
    engine._tokenizer = tokenizer
    alone = ChatRequest(long_chat(), Sampling(max_new_tokens=3))
    first = engine.prepare(alone).prompt
    once = len(tokenizer.lengths)
    tokenizer.lengths.clear()
    messages = long_chat()
    with ThreadPoolExecutor(8) as threads:
        requests = [ChatRequest(messages, Sampling(max_new_tokens=3), seed=seed) for seed in range(8)]
        prompts = list(threads.map(lambda request: engine.prepare(request).prompt, requests))
    assert prompts == [first] * 8
    assert len(tokenizer.lengths) == once
    engine.prepare(ChatRequest(long_chat(8), Sampling(max_new_tokens=3)))
    assert len(tokenizer.lengths) > once
    engine.close()


def test_a_refusal_is_shared_too() -> None:
    """A conversation that cannot fit is refused with the same words for each of its answers."""
    engine = counting_engine(CountingNetwork())
    tokenizer = SlowNumbers()
    tokenizer.go_on.set()
    engine._tokenizer = tokenizer
    messages = (*[Message("user", "5")] * 9,)
    said = set()
    for seed in range(3):
        sampling = Sampling(max_length=9, max_new_tokens=3)
        with pytest.raises(RequestError) as refused:
            engine.prepare(ChatRequest(messages, sampling, seed=seed))
        said.add(str(refused.value))
    assert len(said) == 1
    assert tokenizer.lengths.count(len(messages)) == 1
    engine.close()


def test_a_cancelled_answer_is_not_fitted_to_the_end() -> None:
    """Who leaves while a long history is encoded ends the work at its next text; nothing is queued."""
    engine = counting_engine(CountingNetwork())
    tokenizer = SlowNumbers()
    engine._tokenizer = tokenizer
    events: list[ListenerEvent] = []
    request = ChatRequest(long_chat(), Sampling(max_new_tokens=3))
    listener = StreamListener(lambda: engine.stream(request), events.append)
    listener.start()
    assert tokenizer.started.wait(PATIENCE_SECONDS)
    listener.cancel()
    tokenizer.go_on.set()
    listener.join(PATIENCE_SECONDS)
    assert events == [Ended()]
    assert tokenizer.lengths == [len(request.messages)]
    assert (engine.load.waiting, engine.load.active) == (0, 0)
    # The next one that asks the same is answered: the cancellation was the first one's alone.
    assert next(engine.stream(request)).token_ids == (6,)
    engine.close()
