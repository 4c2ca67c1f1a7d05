"""A model behind a server: where it is, what it is called there, what it can."""

from __future__ import annotations

import dataclasses
import json
import os
import weakref
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urldefrag, urlsplit

import glm_core
from glm_core.records import ModelSource

from ._answer import RemoteAnswer, make_refusal

SECONDS = 300.0  # without a byte from the server, which may be silent for long while it starts
UNKNOWN_LENGTH = 4096  # OpenAI's API does not tell a model's context length; some servers do
HOTTEST = 2.0  # OpenAI's API refuses a higher temperature
DEFAULTS = glm_core.Sampling(None, UNKNOWN_LENGTH, 1.0, 1.0, 0, 1.0, 0.0, 0.0, True, False)


class RemoteModel:
    """The model that ``remote:URL`` or ``remote:URL#NAME`` means; no connection while it rests.

    Raises:
        ModelNotFoundError: the address is wrong, or nothing there serves that model.
        AdapterError: adapters are given, which only the server can load.
    """

    def __init__(self, source: ModelSource) -> None:
        self.closed = False
        self._answers: weakref.WeakSet[RemoteAnswer] = weakref.WeakSet()
        url, wanted = urldefrag(source.name.partition(":")[2])
        self._url = urlsplit(url.rstrip("/"))
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise glm_core.ModelNotFoundError(f"model {source.name!r}: expected remote:http://HOST:PORT/v1")
        if source.adapters:
            raise glm_core.AdapterError("load adapters at the server, and name them: remote:URL#NAME")
        served = {card["id"]: card for card in self._list_served()}
        if not served or wanted not in ("", *served):
            there = ", ".join(served) or "none"
            raise glm_core.ModelNotFoundError(f"{url} serves no model {wanted!r}; it serves: {there}")
        self._name = wanted or next(iter(served))
        length = served[self._name].get("context_length") or UNKNOWN_LENGTH
        self.info = glm_core.ModelInfo(source.name, "remote", 0, length, DEFAULTS, dtype="float32")

    def note_devices(self, devices: tuple[str, ...]) -> RemoteModel:
        """Return the same model, which now says where it is."""
        self.info = dataclasses.replace(self.info, devices=devices)
        return self

    def stream(self, request: glm_core.ChatRequest) -> RemoteAnswer:
        """Ask for an answer."""
        if self.closed:
            raise glm_core.ClosedError("the model was closed")
        if request.adapter is not None:
            raise glm_core.AdapterError(f"adapter {request.adapter!r} is not loaded")
        wanted = request.sampling
        body: dict[str, Any] = {"top_p": wanted.top_p, "presence_penalty": wanted.presence_penalty}
        body |= {"frequency_penalty": wanted.frequency_penalty, "model": self._name, "stream": True}
        temperature = 0.0 if wanted.do_sample is False else wanted.temperature
        body |= {} if temperature is None else {"temperature": min(temperature, HOTTEST)}
        body |= {"max_tokens": wanted.max_new_tokens, "seed": request.seed, "prompt": request.prompt}
        body["stream_options"] = {"include_usage": True}
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        body |= {"stop": request.stop or None, "messages": messages or None}
        body = {name: value for name, value in body.items() if value is not None}
        path = "chat/completions" if request.prompt is None else "completions"
        answer = RemoteAnswer(self._send("POST", path, json.dumps(body)))
        self._answers.add(answer)
        return answer

    def close(self) -> None:
        """End the answers that are running, with `ClosedError`."""
        self.closed = True
        for answer in list(self._answers):
            answer.abort()

    def _send(self, method: str, path: str, body: str | None = None) -> HTTPConnection:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=SECONDS)
        key = os.environ.get("GLM_REMOTE_KEY", "none")
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            connection.request(method, f"{self._url.path}/{path}", body, headers)
        except (OSError, HTTPException) as error:
            connection.close()
            raise glm_core.GlmError(f"{self._url.geturl()} cannot be reached: {error}") from error
        return connection

    def _list_served(self) -> list[dict[str, Any]]:
        connection = self._send("GET", "models")
        try:
            response = connection.getresponse()
            if response.status != 200:
                raise make_refusal(response)
            return list(json.load(response)["data"])
        except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
            raise glm_core.ModelNotFoundError(f"the server speaks another API: {error!r}") from error
        finally:
            connection.close()
