"""Ask a model in the ways that the checks do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from glm_core.chat_model import ChatModel
from glm_core.records import ChatRequest, Delta, Message, ModelLoad, Sampling, Usage

from ._outcomes import BrokenError, expect

if TYPE_CHECKING:
    from .subject import Subject

T = TypeVar("T")

QUESTIONS = (
    "Hello, how are you today? Tell me a little about yourself.",
    "你好，请介绍一下你自己，并说说今天的天气。",
    "What is the capital of France, and why is it famous?",
    "日本語で挨拶してください 🎉 und dann auf Deutsch: schöne Grüße!",
)
LENGTH = 24  # tokens: enough to cut and to cancel in, and quick on a processor
ANSWERING = ("chat_stream", "place")
"""Hooks of the plugins whose models are asked."""
GREEDY = Sampling(do_sample=False, max_new_tokens=LENGTH)
_POLL_SECONDS = 0.01  # between two looks; what is waited for takes milliseconds where it is right


@dataclass(frozen=True)
class CollectedAnswer:
    """A whole answer.

    Attributes:
        deltas: as they came.
        text: all of their text.
        token_ids: all of their tokens.
        finish_reason: of the last one.
        usage: of the last one.
    """

    deltas: tuple[Delta, ...]
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage


def make_question(text: str = QUESTIONS[0], sampling: Sampling = GREEDY, **fields: Any) -> ChatRequest:
    """Return a request of one message, greedy and short unless said otherwise."""
    return ChatRequest((Message("user", text),), sampling, **fields)


def make_sampled_question(seed: int | None, temperature: float = 4.0) -> ChatRequest:
    """Return a request whose answer depends on chance alone."""
    chance = Sampling(do_sample=True, temperature=temperature, top_p=1.0, top_k=0, max_new_tokens=LENGTH)
    return make_question(sampling=chance, seed=seed)


def shorten(request: ChatRequest, tokens: int) -> ChatRequest:
    """Return the same request for so many tokens at most."""
    return replace(request, sampling=replace(request.sampling, max_new_tokens=tokens))


def begin(subject: Subject, model: ChatModel, request: ChatRequest) -> Iterator[Delta]:
    """Return the very iterator that the plugin's ``chat_stream`` returns."""
    deltas = subject.host.call(model._runtime, "chat_stream", model=model.loaded, request=request)
    iterator = callable(getattr(deltas, "close", None)) and hasattr(deltas, "__next__")
    expect(iterator, f"chat_stream returned {deltas!r}, which is no iterator with close()")
    stream: Iterator[Delta] = deltas
    return stream


def close(stream: Iterator[Delta]) -> None:
    """Cancel an answer."""
    stream.close()  # type: ignore[attr-defined]


def ask(subject: Subject, request: ChatRequest, model: ChatModel | None = None) -> CollectedAnswer:
    """Return the whole answer to a request."""
    return join_answer(list(begin(subject, model or subject.model, request)))


def join_answer(deltas: Sequence[Delta]) -> CollectedAnswer:
    """Return an answer made of its deltas."""
    if not deltas or deltas[-1].finish_reason is None or deltas[-1].usage is None:
        raise BrokenError("an answer ended without a last delta that has a finish_reason and usage")
    return CollectedAnswer(
        tuple(deltas),
        "".join(delta.text for delta in deltas),
        tuple(token for delta in deltas for token in delta.token_ids),
        deltas[-1].finish_reason,
        deltas[-1].usage,
    )


def wait_until(subject: Subject, condition: Callable[[], object]) -> bool:
    """Wait for something to come true and return whether it did."""
    end = time.monotonic() + subject.patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def expect_idle(subject: Subject, model: ChatModel) -> None:
    """Expect that the model soon says that nothing runs or waits; one that says nothing passes."""

    def is_idle() -> bool:
        load = getattr(model.loaded, "load", None)
        return not isinstance(load, ModelLoad) or (load.active == 0 and load.waiting == 0)

    expect(
        wait_until(subject, is_idle),
        f"{subject.patience:g} seconds after the last answer ended its load is still {model.load}",
    )


def run_in_threads(subject: Subject, functions: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """Call all at the same time and return what each returned or raised, in their order."""
    outcomes: list[T | BaseException | None] = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def call_one(number: int) -> None:
        try:
            start.wait()
            outcomes[number] = functions[number]()
        except BaseException as error:  # handed to the caller's thread
            outcomes[number] = error

    threads = [
        threading.Thread(target=call_one, args=(number,), daemon=True) for number in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + subject.time_limit / 2
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    stuck = sum(thread.is_alive() for thread in threads)
    expect(not stuck, f"{stuck} of {len(threads)} requests at the same time never came to an end")
    return outcomes  # type: ignore[return-value]  # each thread has set its own
