"""Checks of an answer: its order, its end, its length, its text, and what chance may do to it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from glm_core.errors import AdapterError, RequestError
from glm_core.records import ChatRequest, Delta, Message

from ._answers import (
    ANSWERING,
    GREEDY,
    QUESTIONS,
    ask,
    begin,
    close,
    make_question,
    make_sampled_question,
    shorten,
)
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

_STOPS = 8  # borders that are tried of an answer: its first tokens are of every length already
_SEEDS = 8  # so many equal answers by chance are as good as impossible at this temperature


@check("final-delta", "exactly one last delta has a finish_reason and usage", *ANSWERING)
def check_final_delta(subject: Subject) -> None:
    """Check that nothing comes after it, and that the iterator stays at its end."""
    for text in QUESTIONS:
        stream = begin(subject, subject.model, make_question(text))
        deltas = list(stream)
        strange = [delta for delta in deltas if not isinstance(delta, Delta)]
        expect(not strange, f"the stream gave {strange[:1]!r}; expected Delta records")
        ends = [number for number, delta in enumerate(deltas) if delta.finish_reason or delta.usage]
        expect(
            ends == [len(deltas) - 1],
            f"of {len(deltas)} deltas, {ends} have a finish_reason or usage; expected the last alone",
        )
        last = deltas[-1]
        expect(last.usage is not None, f"the last delta has no usage: {last!r}")
        expect(
            last.finish_reason in ("stop", "length"),
            f"the last delta has finish_reason {last.finish_reason!r}; expected 'stop' or 'length'",
        )
        expect(next(stream, None) is None, "after its end the iterator gives another delta")


@check("token-counts", "token counts add up", *ANSWERING)
def check_token_counts(subject: Subject) -> None:
    """Check that usage counts the tokens of the deltas, and only empty deltas tell a place in the queue."""
    for text in QUESTIONS:
        answer = ask(subject, make_question(text))
        expect(
            answer.usage.completion_tokens == len(answer.token_ids),
            f"usage counts {answer.usage.completion_tokens} completion tokens, "
            f"the deltas hold {len(answer.token_ids)}",
        )
        expect(
            answer.usage.prompt_tokens > 0, f"usage counts {answer.usage.prompt_tokens} tokens of a question"
        )
        queued = [
            delta for delta in answer.deltas if delta.queue_position and (delta.text or delta.token_ids)
        ]
        expect(not queued, f"a delta with text tells a place in the queue: {queued[:1]!r}")


@check("length-limit", "max_new_tokens is honoured", *ANSWERING)
def check_length_limit(subject: Subject) -> None:
    """Check that an answer that is cut has exactly so many tokens and says ``length``."""
    request = make_question()
    tokens = len(ask(subject, request).token_ids)
    if tokens < 2:
        raise NotApplicableError(f"the model answers with {tokens} tokens, too few to cut")
    for limit in sorted({1, tokens // 2, tokens - 1}):
        cut = ask(subject, shorten(request, limit))
        expect(
            len(cut.token_ids) == limit and cut.finish_reason == "length",
            f"with max_new_tokens={limit} the answer has {len(cut.token_ids)} tokens and "
            f"finish_reason {cut.finish_reason!r}; expected {limit} and 'length'",
        )


@check("whole-characters", "no character is split over two deltas", *ANSWERING)
def check_whole_characters(subject: Subject) -> None:
    """Check that every delta's text is valid alone, whatever bytes the tokens were."""
    for text in QUESTIONS:
        for delta in ask(subject, make_question(text)).deltas:
            broken = "\ufffd" in delta.text or any(
                "\ud800" <= character <= "\udfff" for character in delta.text
            )
            expect(not broken, f"a delta holds half a character: {delta.text!r}")


@check(
    "stop-strings", "an answer ends before the first stop string, wherever tokens begin and end", *ANSWERING
)
def check_stop_strings(subject: Subject) -> None:
    """Try stop strings out of the answer itself, from every border between two deltas."""
    tried = 0
    for text in QUESTIONS[:2]:
        answer = ask(subject, make_question(text))
        borders, position = [], 0
        for delta in answer.deltas:
            position += len(delta.text)
            borders.append(position)
        for border in borders[:_STOPS]:
            stop = answer.text[max(border - 2, 0) : border + 2]
            if len(stop) < 2 or not answer.text[: answer.text.find(stop)].strip():
                continue
            tried += 1
            _expect_stopped(subject, text, (stop,), answer.text)
            _expect_stopped(subject, text, ("never in any answer", stop), answer.text)
    if not tried:
        raise NotApplicableError("the model's answers are too short to take stop strings from")


def _expect_stopped(subject: Subject, text: str, stops: tuple[str, ...], unstopped: str) -> None:
    stopped = ask(subject, make_question(text, stop=stops))
    expected = unstopped[: unstopped.find(stops[-1])]
    expect(
        stopped.text.rstrip() == expected.rstrip() and stopped.finish_reason == "stop",
        f"stop={stops!r} gave {stopped.text!r} and finish_reason {stopped.finish_reason!r}; expected "
        f"{expected!r} and 'stop', since without it the answer is {unstopped!r}",
    )


@check("greedy-repeats", "greedy answers are the same each time", *ANSWERING)
def check_greedy_repeats(subject: Subject) -> None:
    """Check that without sampling a question has one answer."""
    for text in QUESTIONS:
        first, second = (ask(subject, make_question(text)) for _ in range(2))
        expect(
            (first.text, first.token_ids) == (second.text, second.token_ids),
            f"the same greedy request gave {first.text!r} and then {second.text!r}",
        )


@check("seeds-repeat", "the same seed gives the same answer", *ANSWERING)
def check_seeds_repeat(subject: Subject) -> None:
    """Check that a seed repeats whatever was asked in between."""
    for seed in (0, 7, 2**63 - 1):
        first = ask(subject, make_sampled_question(seed))
        ask(subject, make_sampled_question(None))
        second = ask(subject, make_sampled_question(seed))
        expect(first.text == second.text, f"seed {seed} gave {first.text!r} and then {second.text!r}")


@check("seeds-differ", "different seeds give different answers where there is chance", *ANSWERING)
def check_seeds_differ(subject: Subject) -> None:
    """Check that at a very high temperature eight seeds do not all agree."""
    seeded = {ask(subject, make_sampled_question(seed)).text for seed in range(_SEEDS)}
    if len(seeded) > 1:
        return
    free = {ask(subject, make_sampled_question(None)).text for _ in range(_SEEDS)}
    if len(free) <= 1:
        raise NotApplicableError("the model answers the same whatever is left to chance")
    raise BrokenError(
        f"answers without a seed differ, but {_SEEDS} different seeds all gave {seeded.pop()!r}"
    )


@check("conversations", "conversations, system messages and bare prompts are answered", *ANSWERING)
def check_conversations(subject: Subject) -> None:
    """Ask whatever core lets through."""
    messages = (Message("user", QUESTIONS[0]), Message("assistant", "Fine."), Message("user", QUESTIONS[1]))
    for request in (
        ChatRequest(messages, GREEDY),
        ChatRequest((Message("system", "Be brief."), *messages), GREEDY),
        ChatRequest(prompt="Once upon a time", sampling=GREEDY),
    ):
        ask(subject, request)


@check("oversized-prompts", "a question that does not fit is refused before the first delta", *ANSWERING)
def check_oversized_prompts(subject: Subject) -> None:
    """Check that it is a ``RequestError``, and that the next request is answered."""
    room = subject.model.info.context_length
    words = random.Random(0)  # noqa: S311  # nothing secret
    long = " ".join(words.choice(("alpha", "beta", "gamma", "delta")) for _ in range(2 * room + 16))
    _expect_refused(subject, make_question(long), RequestError, f"a question of {2 * room + 16} words")
    ask(subject, make_question())


@check("unknown-adapters", "an adapter that is not loaded is refused before the first delta", *ANSWERING)
def check_unknown_adapters(subject: Subject) -> None:
    """Check that the hook itself raises ``AdapterError``, for whoever asks it past core."""
    request = make_question(adapter="of-the-conformance-kit")
    _expect_refused(subject, request, AdapterError, "a request with an unknown adapter")


def _expect_refused(subject: Subject, request: ChatRequest, kind: type[Exception], what: str) -> None:
    model = subject.model
    try:
        stream = begin(subject, model, request)
        first = next(stream, None)
    except kind:
        return
    except Exception as error:  # whatever else it raises
        raise BrokenError(
            f"{what} raised {type(error).__name__}: {error}; expected {kind.__name__}"
        ) from error
    close(stream)
    raise BrokenError(f"{what} was answered, first with {first!r}; expected {kind.__name__}")
