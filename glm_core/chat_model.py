"""The Python API of a loaded model: what `glm_core.load` returns and frontends work with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._checks import to_tuple
from .errors import AdapterError, ClosedError, PluginError, RequestError
from .isolation import format_value, make_promise_error, wrap_plugin_errors
from .models import find_adapter_directory
from .records import (
    FINISH_REASONS,
    AdapterHolder,
    ChatRequest,
    Delta,
    LoadedModel,
    Message,
    ModelInfo,
    ModelLoad,
    Sampling,
    ToolCallDelta,
    build_messages,
    has_tool_messages,
    join_calls,
)
from .tracing import trace_items

if TYPE_CHECKING:
    from .plugins import PluginHost

History = Sequence[Sequence[str]] | Sequence[Message]
_END: Any = object()
_SAMPLING_FIELDS = frozenset(field.name for field in dataclasses.fields(Sampling))


class ChatStream(Iterator[Delta], AbstractContextManager["ChatStream"]):
    """An answer as it comes: iterate it; close it, or leave its ``with`` block, to cancel the answer.

    What the plugin raises that is not for the user becomes a `PluginError` with the original as
    its ``__cause__``, here as in every other hook. So does what it gives that is no `Delta`, comes
    after the last one, or ends without one that has a ``finish_reason``; the answer is cancelled.
    """

    def __init__(self, plugin: str, deltas: Iterator[Delta]) -> None:
        self._plugin = plugin
        self._finished = False
        self._closed = False
        if not callable(getattr(deltas, "close", None)) or not hasattr(deltas, "__next__"):
            raise make_promise_error(
                plugin, f"chat_stream returned {format_value(deltas)}, which is no iterator with close()"
            )
        self._deltas = trace_items(plugin, "chat_stream", deltas)

    def __next__(self) -> Delta:
        with wrap_plugin_errors(self._plugin, "chat_stream"):
            delta = next(self._deltas, _END)
        if delta is _END:
            if self._finished or self._closed:
                raise StopIteration
            self.close()
            raise make_unfinished_error(f"plugin {self._plugin!r}: chat_stream")
        if not isinstance(delta, Delta) or not isinstance(delta.text, str):
            raise self._cancel_broken_answer(
                f"gave {format_value(delta)}; Delta records with text are expected"
            )
        if self._finished:
            raise self._cancel_broken_answer("went on after the delta that had a finish_reason")
        if delta.finish_reason is not None:
            if delta.finish_reason not in FINISH_REASONS:
                raise self._cancel_broken_answer(
                    f"gave the finish_reason {format_value(delta.finish_reason)}; "
                    f"expected one of {', '.join(FINISH_REASONS)}"
                )
            self._finished = True
        return delta

    def close(self) -> None:
        """Cancel the answer and free what it holds; after its end this does nothing."""
        self._closed = True
        self._deltas.close()

    def _cancel_broken_answer(self, what: str) -> PluginError:
        self.close()
        return make_promise_error(self._plugin, f"chat_stream {what}")

    def __exit__(self, *error: object) -> None:
        self.close()


class ChatModel(AbstractContextManager["ChatModel"]):
    """A loaded model: chat with it, stream from it, close it.

    Safe to use from many threads at once. A context manager; leaving it closes the model.
    """

    def __init__(self, host: PluginHost, runtime: str, model: LoadedModel, *, placer: str = "") -> None:
        self._host = host
        self._runtime = runtime
        self._placer = placer or runtime
        self._model = model
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        """Name, family, size, context length, sampling defaults and adapters."""
        with wrap_plugin_errors(self._runtime, "info"):
            info: object = self._model.info
        if not isinstance(info, ModelInfo):
            raise make_promise_error(
                self._runtime, f"info of its model is {format_value(info)}, which is no ModelInfo"
            )
        return info

    def chat(
        self,
        prompt: str,
        history: History | None = None,
        *,
        system: str | None = None,
        adapter: str | None = None,
        stop: Iterable[str] | None = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> tuple[str, list[Any]]:
        """Answer ``prompt`` and return the answer with the history grown by this turn.

        Args:
            prompt: the question.
            history: ``(question, answer)`` pairs as in the original, or `Message` records.
            system: instructions that stand before the conversation.
            adapter: name of a loaded adapter; ``None`` = the base model.
            stop: a string, or several, before which the answer ends.
            seed: makes sampling repeatable.
            **sampling: fields of `Sampling`, such as ``temperature=0.7`` or ``max_new_tokens=64``.

        Returns:
            The answer, and a new history of the kind that was passed (pairs if none was).

        Raises:
            RequestError: a value is wrong, or the question does not fit.
        """
        past = list(to_tuple("history", history or ()))
        with self.chat_stream(
            prompt, past, system=system, adapter=adapter, stop=stop, seed=seed, **sampling
        ) as deltas:
            reply, _ = collect(deltas)
        if past and isinstance(past[0], Message):
            return reply, [*past, Message("user", prompt), Message("assistant", reply)]
        return reply, [*(tuple(pair) for pair in past), (prompt, reply)]

    def chat_stream(
        self,
        prompt: str,
        history: History | None = None,
        *,
        system: str | None = None,
        adapter: str | None = None,
        stop: Iterable[str] | None = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> ChatStream:
        """Answer like `chat`, as an iterator of `Delta`; closing it early cancels the answer."""
        unknown = sorted(set(sampling) - _SAMPLING_FIELDS)
        if unknown:
            raise RequestError(
                f"unknown sampling option {unknown[0]!r}; known are {', '.join(sorted(_SAMPLING_FIELDS))}"
            )
        request = ChatRequest(
            messages=build_messages(history, prompt, system),
            sampling=Sampling(**sampling),
            adapter=adapter,
            stop=(stop,) if isinstance(stop, str) else to_tuple("stop", stop or ()),
            seed=seed,
        )
        return self.stream(request)

    def stream(self, request: ChatRequest) -> ChatStream:
        """Answer a whole `ChatRequest`; what frontends call.

        Raises:
            ClosedError: the model was closed.
            AdapterError: the request names an adapter that is not loaded.
            BusyError: too many requests wait already.
            RequestError: the prompt does not fit, or has tools for a model that knows none.
        """
        if self._closed:
            raise ClosedError("the model was closed; load it again")
        if request.adapter is not None:
            self._check_adapter(request.adapter)
        if "tools" not in self.info.features and (request.tools or has_tool_messages(request.messages)):
            raise RequestError(
                f"{self.info.name} ({self.info.family}) has no format for tools; leave tools and their "
                "messages out, or load a model that has one"
            )
        deltas = self._host.call(self._runtime, "chat_stream", model=self._model, request=request)
        if deltas is None:
            raise make_promise_error(
                self._runtime, "chat_stream declined a request for a model that it loaded"
            )
        return ChatStream(self._runtime, deltas)

    def reply(self, request: ChatRequest) -> Message:
        """Answer a whole `ChatRequest` with the assistant's message, tool calls included.

        Raises:
            GlmError: see `stream`.
        """
        with self.stream(request) as deltas:
            return collect_message(deltas)[0]

    @property
    def load(self) -> ModelLoad | None:
        """Return how busy the model is now; ``None`` where its runtime does not say."""
        with wrap_plugin_errors(self._runtime, "load"):
            load = getattr(self._model, "load", None)
        return load if isinstance(load, ModelLoad) else None

    def measure_bandwidth(self) -> float | None:
        """Ask the plugin that placed the model how many bytes a second its first device can read.

        Returns:
            ``None`` where the plugin cannot say.

        Raises:
            DeviceError: the device is gone.
        """
        devices = self.info.devices
        found = self._host.call(self._placer, "measure_bandwidth", device=devices[0]) if devices else None
        return None if found is None else float(found)

    @property
    def loaded(self) -> LoadedModel:
        """Return the runtime's own object, for hooks that work on it."""
        return self._model

    def add_adapter(
        self, name: str, directory: str | os.PathLike[str], *, inside: Path | None = None
    ) -> None:
        """Load an adapter beside those there are; requests may name it as soon as this returns.

        Args:
            name: what requests will call it.
            directory: where its files are.
            inside: read no file that is really elsewhere, whatever links say; ``None`` = anywhere.

        Raises:
            AdapterError: the name is taken or empty, or the adapter is missing, damaged or of another
                model, or a file of it is not inside ``inside``.
        """
        if name in self.info.adapters:
            raise AdapterError(f"adapter {name!r} is loaded already; remove it first, or choose another name")
        holder, path = self._require_holder(), find_adapter_directory(name, directory)
        with wrap_plugin_errors(self._runtime, "add_adapter"):
            holder.add_adapter(name, path, inside)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; requests that run or wait with it end as they would have.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_adapter(name)
        holder = self._require_holder()
        with wrap_plugin_errors(self._runtime, "remove_adapter"):
            holder.remove_adapter(name)

    def _require_holder(self) -> AdapterHolder:
        if self._closed:
            raise ClosedError("the model was closed; load it again")
        if not isinstance(self._model, AdapterHolder):
            raise AdapterError(
                f"models of runtime {self._runtime!r} cannot change their adapters while they run; "
                "start again with --adapter NAME=DIR"
            )
        return self._model

    def _check_adapter(self, name: str) -> None:
        if name not in self.info.adapters:
            loaded = ", ".join(self.info.adapters) or "none"
            raise AdapterError(f"adapter {name!r} is not loaded; loaded are: {loaded}")

    def close(self) -> None:
        """Give back memory and threads; further requests raise `ClosedError`."""
        if not self._closed:
            self._closed = True
            with wrap_plugin_errors(self._runtime, "close"):
                self._model.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def collect(stream: Iterable[Delta]) -> tuple[str, Delta]:
    """Run a stream to its end; the whole text and the last delta.

    Raises:
        PluginError: the stream ended without a delta that has a ``finish_reason``.
    """
    message, last = collect_message(stream)
    return message.content, last


def make_unfinished_error(what: str) -> PluginError:
    """Return the error for an answer whose end has no ``finish_reason``, and so may be only a part."""
    return PluginError(f"{what} ended without a finish_reason; report this to the runtime's author")


def collect_message(stream: Iterable[Delta]) -> tuple[Message, Delta]:
    """Run a stream to its end; the assistant's message and the last delta.

    Raises:
        PluginError: the stream ended without a delta that has a ``finish_reason``, or what it
            gave makes no message.
    """
    text: list[str] = []
    pieces: list[ToolCallDelta] = []
    last: Delta | None = None
    for delta in stream:
        text.append(delta.text)
        pieces += delta.tool_calls
        last = delta
    if last is None or last.finish_reason is None:
        raise make_unfinished_error("the answer")
    calls = join_calls(pieces)
    try:
        return Message("assistant", "".join(text), calls), last
    except RequestError as error:
        raise PluginError(f"the answer is broken: {error}; report this to the runtime's author") from error
