"""Tests of the Python API of a loaded model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import FakeModel, runtime
from glm_testing import make_host, null_backend
from glm_testing.null_backend import NullModel
from key_words import containing

from glm_core import AdapterError, ChatModel, ClosedError, Message, PluginError, RequestError, Sampling
from glm_core.chat_model import collect
from glm_core.records import ChatRequest, Delta, Usage

LAST = Delta("", finish_reason="stop", usage=Usage())


@pytest.fixture
def null() -> NullModel:
    """The null plugin's model with one adapter."""
    return NullModel("null", ("a",))


@pytest.fixture
def model(null: NullModel) -> ChatModel:
    """The same as a user has it."""
    return ChatModel(make_host(null=null_backend), "null", null)


def answering(answer: Any, requests: list[ChatRequest] | None = None) -> ChatModel:
    """A model whose runtime answers ``chat_stream`` with ``answer``."""

    def chat_stream(model: object, request: ChatRequest) -> Any:
        if requests is not None:
            requests.append(request)
        return answer

    fake = FakeModel(("a",))
    return ChatModel(make_host(r=runtime(fake, chat_stream)), "r", fake)


def deltas(*given: Delta) -> Iterator[Delta]:
    """A stream of the given deltas."""
    yield from given


# --- chat ----------------------------------------------------------------------------------------


def test_chat_returns_the_answer_and_the_grown_history(model: ChatModel) -> None:
    """Pairs in, pairs out, as the original; the list that was passed stays as it was."""
    history = [("a", "b")]
    assert model.chat("c d", history) == ("c d", [("a", "b"), ("c d", "c d")])
    assert history == [("a", "b")]
    assert model.chat("c", [["a", "b"]])[1] == [("a", "b"), ("c", "c")]
    assert model.chat("c")[1] == [("c", "c")]


def test_chat_returns_messages_where_messages_were_passed(model: ChatModel) -> None:
    """The history keeps its kind."""
    history = [Message("user", "a"), Message("assistant", "b")]
    assert model.chat("c", history)[1] == [*history, Message("user", "c"), Message("assistant", "c")]


def test_chat_refuses_an_answer_without_an_end() -> None:
    """A stream that breaks off is an error and not a short answer."""
    with pytest.raises(PluginError, match=containing("chat_stream", "finish_reason")):
        answering(deltas(Delta("half"))).chat("hi")


@pytest.mark.parametrize("stop", ["END", ["END"], ("END",), iter(["END"])])
def test_stop_is_a_string_or_several(stop: Any) -> None:
    """A single string is not taken for its letters."""
    requests: list[ChatRequest] = []
    answering(deltas(LAST), requests).chat("hi", stop=stop)
    assert requests[0].stop == ("END",)


def test_everything_that_was_said_is_in_the_request() -> None:
    """History, system text, adapter, stop strings, seed and sampling reach the runtime in one record."""
    requests: list[ChatRequest] = []
    answering(deltas(LAST), requests).chat(
        "q", [("a", "b")], system="s", adapter="a", stop=None, seed=7, temperature=0.5, max_new_tokens=3
    )
    messages = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "q"))
    assert requests == [ChatRequest(messages, Sampling(temperature=0.5, max_new_tokens=3), "a", (), 7)]


def test_unknown_sampling_option_is_refused_with_the_known_ones(model: ChatModel) -> None:
    """A misspelt option is not passed over."""
    with pytest.raises(RequestError, match=containing("'temprature'", "do_sample", "temperature")):
        model.chat("hi", temprature=1)


def test_adapter_that_is_not_loaded_is_refused_with_the_loaded_ones(model: ChatModel) -> None:
    """The message lists what may be chosen."""
    assert model.chat("hi", adapter="a")[0] == "hi"
    with pytest.raises(AdapterError, match=containing("adapter 'b' is not loaded", "loaded are: a")):
        model.chat("hi", adapter="b")


# --- adapters that come and go -------------------------------------------------------------------


def test_adapter_is_added_and_removed_while_the_model_runs(model: ChatModel, tmp_path: Path) -> None:
    """A request may name it as soon as it was added, and no longer once it was removed."""
    model.add_adapter("b", tmp_path)
    assert model.info.adapters == ("a", "b")
    assert model.chat("hi", adapter="b")[0] == "hi"
    model.remove_adapter("b")
    assert model.info.adapters == ("a",)
    with pytest.raises(AdapterError, match=containing("adapter 'b' is not loaded", "loaded are: a")):
        model.chat("hi", adapter="b")


def test_adapter_name_that_is_taken_or_impossible_is_refused(model: ChatModel, tmp_path: Path) -> None:
    """Nothing is replaced in silence, and a name can be told apart in MODEL:NAME."""
    with pytest.raises(AdapterError, match=containing("'a' is loaded already", "remove")):
        model.add_adapter("a", tmp_path)
    for name in ("", "x:y", "-x", "x" * 65):
        with pytest.raises(AdapterError, match="cannot be used; choose letters, digits"):
            model.add_adapter(name, tmp_path)
    assert model.info.adapters == ("a",)


def test_adapter_without_a_directory_is_refused(model: ChatModel, tmp_path: Path) -> None:
    """The runtime is not asked to look for what is not there."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(AdapterError, match=f"^adapter 'b': {path} is no directory"):
            model.add_adapter("b", path)


def test_removing_an_adapter_that_is_not_there_is_refused(model: ChatModel) -> None:
    """A misspelt name removes nothing."""
    with pytest.raises(AdapterError, match=containing("adapter 'b' is not loaded", "loaded are: a")):
        model.remove_adapter("b")


def test_model_that_holds_its_adapters_fast_says_so(tmp_path: Path) -> None:
    """A runtime need not be able to change adapters; the user is told what works instead."""
    fixed = answering(deltas(LAST))
    for change in (lambda: fixed.add_adapter("b", tmp_path), lambda: fixed.remove_adapter("a")):
        with pytest.raises(AdapterError, match=r"runtime 'r'.*change .*; start.*--adapter"):
            change()


def test_runtime_that_breaks_over_an_adapter_is_named(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own failure is no traceback for the user; what it says of the adapter stays as it is."""
    errors: list[Exception] = [ValueError("a bug"), AdapterError("it is damaged")]

    def fail(*_: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(NullModel, "add_adapter", fail)
    with pytest.raises(PluginError, match=r"plugin 'null' failed in add_adapter: ValueError: a bug"):
        model.add_adapter("b", tmp_path)
    with pytest.raises(AdapterError, match="^it is damaged$"):
        model.add_adapter("b", tmp_path)


def test_adapters_of_a_closed_model_cannot_change(model: ChatModel, tmp_path: Path) -> None:
    """After close, adding and removing say that the model was closed."""
    model.close()
    for change in (lambda: model.add_adapter("b", tmp_path), lambda: model.remove_adapter("a")):
        with pytest.raises(ClosedError, match="the model was closed"):
            change()


# --- streams -------------------------------------------------------------------------------------


def test_stream_ends_with_a_reason_and_usage(model: ChatModel) -> None:
    """The pieces make the text; the last delta, and only that, says why it ended."""
    stream = list(model.chat_stream("a b c", max_new_tokens=2))
    assert "".join(delta.text for delta in stream) == "a b"
    assert [delta.finish_reason for delta in stream] == [None, None, "length"]
    assert stream[-1].usage is not None


def test_closing_a_stream_frees_its_slot(model: ChatModel, null: NullModel) -> None:
    """An answer that nobody reads any more holds nothing."""
    stream = model.chat_stream("a b c")
    next(stream)
    assert null.active == 1
    stream.close()
    assert null.active == 0
    assert list(stream) == []


def test_leaving_the_with_block_closes_the_stream(model: ChatModel, null: NullModel) -> None:
    """``with model.chat_stream(...)`` needs no ``close()``."""
    with model.chat_stream("a b c") as stream:
        assert next(stream).text == "a"
    assert null.active == 0


def test_stream_that_nobody_holds_frees_its_slot(model: ChatModel, null: NullModel) -> None:
    """Breaking out of a loop is enough, as with a plain generator."""
    for _ in model.chat_stream("a b c"):
        break
    gc.collect()
    assert null.active == 0


def test_stream_can_be_closed_before_it_is_read_and_twice(model: ChatModel) -> None:
    """Closing is always allowed."""
    stream = model.chat_stream("a")
    stream.close()
    stream.close()


def test_close_reaches_a_stream_that_was_never_read() -> None:
    """A runtime may hold a place for a request from the call on."""
    closed: list[bool] = []

    class Waiting(Iterator[Delta]):
        def __next__(self) -> Delta:
            raise StopIteration

        def close(self) -> None:
            closed.append(True)

    answering(Waiting()).chat_stream("hi").close()
    assert closed == [True]


def test_interrupted_chat_closes_its_stream(null: NullModel) -> None:
    """Ctrl-C during ``chat`` does not leave the answer running."""
    closed: list[bool] = []

    def interrupted() -> Iterator[Delta]:
        try:
            yield Delta("a")
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        answering(interrupted()).chat("hi")
    assert closed == [True]


def test_plugin_that_fails_while_answering_is_named() -> None:
    """A bug of the runtime in the middle of an answer becomes a PluginError with its cause."""

    def failing() -> Iterator[Delta]:
        yield Delta("a")
        raise ZeroDivisionError("by zero")

    stream = answering(failing()).chat_stream("hi")
    next(stream)
    with pytest.raises(
        PluginError, match="^plugin 'r' failed in chat_stream: ZeroDivisionError: by zero"
    ) as caught:
        next(stream)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_glm_error_while_answering_is_passed_on() -> None:
    """What is for the user stays as it is."""

    def closing() -> Iterator[Delta]:
        yield Delta("a")
        raise ClosedError("the model was closed")

    with pytest.raises(ClosedError, match="^the model was closed$"):
        answering(closing()).chat("hi")


def test_runtime_that_declines_its_own_model_is_named() -> None:
    """``None`` from the runtime that loaded the model is a bug of its."""
    with pytest.raises(PluginError, match="plugin 'r': chat_stream declined"):
        answering(None).chat("hi")


@pytest.mark.parametrize("answer", [[LAST], iter([LAST]), "text", FakeModel()])
def test_answer_that_cannot_be_closed_is_refused(answer: Any) -> None:
    """Frontends rely on iterating and ``close()``, so the lack of one is found at the first request."""
    with pytest.raises(PluginError, match=containing("chat_stream returned", "close()")):
        answering(answer).chat_stream("hi")


# --- closing -------------------------------------------------------------------------------------


def test_closed_model_refuses_requests(model: ChatModel, null: NullModel) -> None:
    """After ``close()`` a request is an error of its own; the facts stay readable."""
    model.close()
    assert null.closed
    with pytest.raises(ClosedError, match="^the model was closed; load it again$"):
        model.chat("hi")
    assert model.info.name == "null"


def test_closing_twice_closes_once() -> None:
    """A context manager around an explicit ``close()`` is fine."""
    fake = FakeModel()
    with ChatModel(make_host(), "r", fake) as model:
        model.close()
    assert fake.closed == 1


def test_context_manager_closes_after_an_error(model: ChatModel, null: NullModel) -> None:
    """Leaving the block closes the model, whatever happened inside."""
    with pytest.raises(ZeroDivisionError), model:
        raise ZeroDivisionError
    assert null.closed


def test_finished_stream_does_not_keep_the_model() -> None:
    """A stream that was kept by mistake holds no weights."""
    fake = FakeModel()
    chat_model = ChatModel(make_host(r=runtime(fake, lambda request: deltas(LAST))), "r", fake)
    stream = chat_model.chat_stream("hi")
    list(stream)
    alive = weakref.ref(chat_model)
    del chat_model
    gc.collect()
    assert alive() is None


# --- collect -------------------------------------------------------------------------------------


def test_collect_gives_text_and_last_delta() -> None:
    """The whole text and the delta with reason and usage."""
    assert collect([Delta("a"), Delta("b"), LAST]) == ("ab", LAST)


@pytest.mark.parametrize("stream", [[], [Delta("a")]])
def test_collect_refuses_a_stream_without_an_end(stream: list[Delta]) -> None:
    """Empty, or broken off."""
    with pytest.raises(PluginError, match=containing("finish_reason", "report this")):
        collect(stream)
