"""Checks of answers that are given up, asked for all at once, or overtaken by the model's end."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from glm_core.chat_model import ChatModel
from glm_core.errors import BusyError, ClosedError, GlmError
from glm_core.records import Delta, ModelLoad

from ._answers import (
    ANSWERING,
    QUESTIONS,
    CollectedAnswer,
    ask,
    begin,
    close,
    expect_idle,
    join_answer,
    make_question,
    run_in_threads,
    wait_until,
)
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

_REPEATS = 6  # the moment of a close is chance; a race that is lost now and then shows in a few tries
_CROWD = 16  # so many at once that some wait, where a runtime has few slots


@check("closing", "closing an answer early frees its slot", *ANSWERING)
def check_closing(subject: Subject) -> None:
    """Close answers read or unread, once or twice; with one slot the next request is answered as ever."""
    with subject.open_fresh(slots=1) as model:
        alone = ask(subject, make_question(), model)
        for read in (0, 1, 2) * 2:
            stream = begin(subject, model, make_question())
            for _ in range(read):
                next(stream, None)
            close(stream)
            close(stream)
            rest = list(stream)
            expect(not rest, f"a closed answer still gives {rest[:1]!r}")
        expect_idle(subject, model)
        again = ask(subject, make_question(), model)
        expect(
            again.text == alone.text,
            f"after closed answers the same question is answered with {again.text!r}, before {alone.text!r}",
        )


@check(
    "closing-from-elsewhere",
    "an answer can be closed from another thread, which wakes its reader",
    *ANSWERING,
)
def check_closing_from_elsewhere(subject: Subject) -> None:
    """Close while the reader waits for a token or for its turn."""
    with subject.open_fresh(slots=1) as model:
        for number in range(_REPEATS):
            streams = [begin(subject, model, make_question(text)) for text in QUESTIONS]
            ended = threading.Event()
            reader = threading.Thread(target=_read, args=(streams[-1], ended), daemon=True)
            reader.start()
            if number % 2:
                next(streams[0], None)
            for stream in reversed(streams):
                try:
                    close(stream)
                except Exception as error:  # whatever it raises
                    raise BrokenError(
                        f"close() from another thread raised {type(error).__name__}: {error}"
                    ) from error
            expect(
                ended.wait(subject.patience),
                f"{subject.patience:g} seconds after close() its reader still waits for a delta",
            )
        expect_idle(subject, model)


def _read(stream: Iterator[Delta], ended: threading.Event) -> None:
    with contextlib.suppress(Exception):  # how it ends is not this check's business
        for _ in stream:
            pass
    ended.set()


@check("cancelling-under-load", "answers given up at random disturb no other", *ANSWERING)
def check_cancelling_under_load(subject: Subject) -> None:
    """Check that of many at once those read to the end are as when alone, and nothing is left behind."""
    chance = random.Random(0)  # noqa: S311  # nothing secret
    with subject.open_fresh() as model:
        alone = {text: ask(subject, make_question(text), model).text for text in QUESTIONS}

        def make_job(text: str, reads: int | None) -> Callable[[], tuple[str, CollectedAnswer | None]]:
            return lambda: (text, _give_up(subject, model, text, reads))

        jobs = [
            make_job(QUESTIONS[number % len(QUESTIONS)], None if number % 3 == 0 else chance.randrange(8))
            for number in range(2 * _CROWD)
        ]
        for outcome in run_in_threads(subject, jobs):
            if isinstance(outcome, BusyError):
                continue
            if isinstance(outcome, BaseException):
                raise BrokenError(
                    f"a request among others raised {type(outcome).__name__}: {outcome}"
                ) from outcome
            text, answer = outcome
            expect(
                answer is None or answer.text == alone[text],
                f"{text!r} is answered with {answer and answer.text!r} beside others, alone {alone[text]!r}",
            )
        expect_idle(subject, model)
        ask(subject, make_question(), model)


def _give_up(subject: Subject, model: ChatModel, text: str, reads: int | None) -> CollectedAnswer | None:
    """Read so many deltas and close; ``None`` reads to the end."""
    stream = begin(subject, model, make_question(text))
    try:
        if reads is None:
            return join_answer(list(stream))
        for _ in range(reads):
            next(stream, None)
        return None
    finally:
        close(stream)


@check("answers-at-once", "requests at the same time get the answers that they get alone", *ANSWERING)
def check_answers_at_once(subject: Subject) -> None:
    """Check that the tokens are the same from however many threads ask."""
    alone = {text: ask(subject, make_question(text)).token_ids for text in QUESTIONS}
    texts = [QUESTIONS[number % len(QUESTIONS)] for number in range(_CROWD)]
    answers = run_in_threads(subject, [lambda text=text: ask(subject, make_question(text)) for text in texts])  # type: ignore[misc]
    for text, answer in zip(texts, answers, strict=True):
        if isinstance(answer, BusyError):
            continue
        if isinstance(answer, BaseException):
            raise BrokenError(f"a request among others raised {type(answer).__name__}: {answer}") from answer
        expect(
            answer.token_ids == alone[text],
            f"{text!r} gets the tokens {answer.token_ids} beside others, alone {alone[text]}",
        )


@check("load", "a model that says how busy it is says so truly", *ANSWERING)
def check_load(subject: Subject) -> None:
    """Check that nothing runs at rest, and never more than there are slots."""
    with subject.open_fresh(slots=1) as model:
        if getattr(model.loaded, "load", None) is None:
            raise NotApplicableError("its models have no load")
        expect(isinstance(model.load, ModelLoad), f"load is {model.load!r}; expected a ModelLoad")
        expect_idle(subject, model)
        stream = begin(subject, model, make_question())
        next(stream, None)
        busy = model.load
        assert busy is not None
        close(stream)
        expect(
            busy.slots >= 1 and 0 <= busy.active <= busy.slots,
            f"during an answer {busy.active} of {busy.slots} slots are in use",
        )
        expect_idle(subject, model)


@check(
    "closing-models", "closing a model ends its answers and refuses further ones with ClosedError", *ANSWERING
)
def check_closing_models(subject: Subject) -> None:
    """Check that no reader waits for ever."""
    model = subject.open()
    streams = [begin(subject, model, make_question(text)) for text in QUESTIONS]
    next(streams[0], None)
    events = [threading.Event() for _ in streams]
    for stream, ended in zip(streams, events, strict=True):
        threading.Thread(target=_read, args=(stream, ended), daemon=True).start()
    model.loaded.close()
    for ended in events:
        expect(
            ended.wait(subject.patience),
            f"{subject.patience:g} seconds after the model was closed a reader still waits",
        )
    try:
        stream = begin(subject, model, make_question())
        next(stream, None)
    except ClosedError:
        return
    except GlmError as error:
        raise BrokenError(
            f"a closed model raises {type(error).__name__}: {error}; expected ClosedError"
        ) from error
    raise BrokenError("a closed model still answers")


@check("closing-twice", "a model may be closed twice, and before it is placed", "load_model", "place")
def check_closing_twice(subject: Subject) -> None:
    """Close twice, since whoever gives up early need not know how far it got."""
    fresh = subject.load_fresh()
    for _ in range(2):
        fresh.close()
    model = subject.open()
    for _ in range(2):
        model.loaded.close()


@check("threads-end", "a closed model leaves no thread behind", *ANSWERING)
def check_threads_end(subject: Subject) -> None:
    """Check that all threads that it started end after it answered."""
    subject.close()
    with subject.open_fresh() as warm:  # libraries start threads of their own once, for good
        ask(subject, make_question(), warm)
    before = set(threading.enumerate())
    with subject.open_fresh() as model:
        ask(subject, make_question(), model)
    started: set[threading.Thread] = set()

    def has_ended() -> bool:
        started.clear()
        started.update(thread for thread in threading.enumerate() if thread not in before)
        return not started

    expect(
        wait_until(subject, has_ended),
        f"{subject.patience:g} seconds after the model was closed there still runs: "
        f"{', '.join(sorted(thread.name for thread in started))}",
    )
