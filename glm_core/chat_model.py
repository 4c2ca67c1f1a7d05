"""The Python API of a loaded model: what `glm_core.load` returns and frontends work with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .errors import AdapterError, ClosedError, PluginError, RequestError
from .records import (
    ChatRequest,
    Delta,
    DeltaStream,
    LoadedModel,
    Message,
    ModelInfo,
    Sampling,
    as_messages,
)

if TYPE_CHECKING:
    from .plugins import PluginHost

History = Sequence[Sequence[str]] | Sequence[Message]
_SAMPLING_FIELDS = frozenset(field.name for field in dataclasses.fields(Sampling))


class ChatModel:
    """A loaded model: chat with it, stream from it, close it.

    Safe to use from many threads at once. A context manager; leaving it closes the model.
    """

    def __init__(self, host: PluginHost, runtime: str, model: LoadedModel) -> None:
        self._host = host
        self._runtime = runtime
        self._model = model
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        """Name, family, size, context length, sampling defaults and adapters."""
        return self._model.info

    def chat(
        self,
        prompt: str,
        history: History | None = None,
        *,
        system: str | None = None,
        adapter: str | None = None,
        stop: Iterable[str] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> tuple[str, list[Any]]:
        """Answer ``prompt`` and return the answer with the history grown by this turn.

        Args:
            prompt: the question.
            history: ``(question, answer)`` pairs as in the original, or `Message` records.
            system: instructions that stand before the conversation.
            adapter: name of a loaded adapter; ``None`` = the base model.
            stop: strings before which the answer ends.
            seed: makes sampling repeatable.
            **sampling: fields of `Sampling`, such as ``temperature=0.7`` or ``max_new_tokens=64``.

        Returns:
            The answer, and a new history of the kind that was passed (pairs if none was).

        Raises:
            RequestError: a value is wrong, or the question does not fit.
        """
        past = list(history or [])
        deltas = self.chat_stream(
            prompt, past, system=system, adapter=adapter, stop=stop, seed=seed, **sampling
        )
        reply = "".join(delta.text for delta in deltas)
        if past and isinstance(past[0], Message):
            return reply, [*past, Message("user", prompt), Message("assistant", reply)]
        return reply, [*(tuple(cast(Sequence[str], pair)) for pair in past), (prompt, reply)]

    def chat_stream(
        self,
        prompt: str,
        history: History | None = None,
        *,
        system: str | None = None,
        adapter: str | None = None,
        stop: Iterable[str] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> DeltaStream:
        """Like `chat`, as an iterator of `Delta`; closing it early cancels the answer."""
        unknown = sorted(set(sampling) - _SAMPLING_FIELDS)
        if unknown:
            raise RequestError(
                f"unknown sampling option {unknown[0]!r}; known are {', '.join(sorted(_SAMPLING_FIELDS))}"
            )
        request = ChatRequest(
            messages=as_messages(history, prompt, system),
            sampling=Sampling(**sampling),
            adapter=adapter,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=seed,
        )
        return self.stream(request)

    def stream(self, request: ChatRequest) -> DeltaStream:
        """Answer a whole `ChatRequest`; what frontends call.

        Raises:
            ClosedError: the model was closed.
            AdapterError: the request names an adapter that is not loaded.
            RequestError: the prompt does not fit.
        """
        if self._closed:
            raise ClosedError("the model was closed; load it again")
        if request.adapter is not None and request.adapter not in self.info.adapters:
            loaded = ", ".join(self.info.adapters) or "none"
            raise AdapterError(f"adapter {request.adapter!r} is not loaded; loaded are: {loaded}")
        stream: DeltaStream | None = self._host.call(
            self._runtime, "chat_stream", model=self._model, request=request
        )
        if stream is None:
            raise PluginError(
                f"plugin {self._runtime!r} loaded the model but declined to chat with it; report this to its author"
            )
        return stream

    def close(self) -> None:
        """Give back memory and threads; further requests raise `ClosedError`."""
        if not self._closed:
            self._closed = True
            self._model.close()

    def __enter__(self) -> ChatModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def collect(stream: Iterable[Delta]) -> tuple[str, Delta]:
    """Run a stream to its end; the whole text and the last delta.

    Raises:
        PluginError: the stream ended without a delta that has a ``finish_reason``.
    """
    text: list[str] = []
    last: Delta | None = None
    for delta in stream:
        text.append(delta.text)
        last = delta
    if last is None or last.finish_reason is None:
        raise PluginError("the answer ended without a finish_reason; report this to the runtime's author")
    return "".join(text), last
