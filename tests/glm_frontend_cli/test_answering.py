"""Reading an answer that can be stopped."""

import signal

import pytest
from glm_frontend_cli._answering import AnswerStream

from glm_core import Delta, PluginError, RequestError, Usage


def test_answer_carries_text_reason_and_usage():
    """A whole answer ends as the model says."""
    deltas = [Delta("你", (1,)), Delta("好", (2,)), Delta("", (), "length", Usage(3, 2))]
    with AnswerStream(lambda: (delta for delta in deltas)) as stream:
        assert "".join(stream.pieces()) == "你好"
    answer = stream.answer()
    assert (answer.text, answer.ended, answer.usage) == ("你好", "length", Usage(3, 2))


def test_answer_text_is_cleaned_even_across_pieces():
    """An escape sequence split over two deltas is harmless."""
    deltas = [Delta("a\x1b"), Delta("[31mb\x07"), Delta("", (), "stop", Usage())]
    with AnswerStream(lambda: (delta for delta in deltas)) as stream:
        assert "".join(stream.pieces()) == "a[31mb"
    assert stream.answer().text == "a[31mb"


def test_ctrl_c_stops_the_answer_and_closes_the_stream(runtime):
    """The partial text is kept, the iterator is closed, and Ctrl-C works as before afterwards."""
    runtime.pieces, runtime.interrupt_after = ["one ", "two "], 1
    before = signal.getsignal(signal.SIGINT)
    request = object()
    with AnswerStream(lambda: runtime.chat_stream(None, request)) as stream:
        text = "".join(stream.pieces())
        assert stream.stopping
        assert runtime.closed == 1
    assert stream.answer().ended == "stopped"
    assert text.startswith("one ")
    assert signal.getsignal(signal.SIGINT) is before


def test_stopped_answer_counts_its_own_tokens():
    """Without a last delta, tokens are counted as they came."""

    def endless():
        yield Delta("x", (1, 2))
        signal.raise_signal(signal.SIGINT)
        while True:
            yield Delta("", ())

    with AnswerStream(endless) as stream:
        for _ in stream.pieces():
            pass
    assert stream.answer().usage.completion_tokens == 2


def test_leaving_early_closes_the_stream(runtime):
    """A view that fails in the middle leaves no answer running."""
    runtime.pieces = ["x"] * 10_000

    def break_off():
        with AnswerStream(lambda: runtime.chat_stream(None, object())) as stream:
            next(stream.pieces())
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        break_off()
    assert runtime.closed == 1


def test_errors_of_the_runtime_arrive_where_the_answer_is_shown(runtime):
    """An error is raised with its own type, after the text before it."""
    runtime.error = RequestError("too long")
    pieces = []
    with AnswerStream(lambda: runtime.chat_stream(None, object())) as stream:
        with pytest.raises(RequestError, match="too long"):
            pieces.extend(stream.pieces())
    assert "".join(pieces) == "hello"


def test_errors_before_the_first_delta_arrive_too():
    """Opening the stream may fail as well."""

    def refuse():
        raise RequestError("does not fit")

    with AnswerStream(refuse) as stream:
        with pytest.raises(RequestError, match="does not fit"):
            list(stream.pieces())


def test_stream_without_a_last_delta_is_the_runtimes_fault():
    """A broken promise is reported, not shown as an answer."""
    with AnswerStream(lambda: (delta for delta in [Delta("x")])) as stream:
        with pytest.raises(PluginError, match="without a finish_reason"):
            list(stream.pieces())


def test_ignored_ctrl_c_stays_ignored(runtime):
    """A background job that ignores Ctrl-C goes on ignoring it while it answers."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with AnswerStream(lambda: runtime.chat_stream(None, object())) as stream:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            list(stream.pieces())
    finally:
        signal.signal(signal.SIGINT, before)
