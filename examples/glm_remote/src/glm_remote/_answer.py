"""One answer: the server's events as deltas."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse

import glm_core
from glm_core import Delta, GlmError

LONGEST_LINE = 2**20  # bytes; a server that sends no line end must not fill the memory
KINDS = {400: glm_core.RequestError, 413: glm_core.RequestError, 429: glm_core.BusyError}


class RemoteAnswer(Iterator[Delta]):
    """An answer that a server streams; `close` may come from any thread and closes the connection."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._socket = connection.sock  # http.client forgets it once the response has begun
        self._response: HTTPResponse | None = None
        self._reason, self._usage = "stop", dict[str, int]()
        self._over = self._aborted = False
        self._reading = threading.RLock()

    def __next__(self) -> Delta:
        """Return the next piece of text; the last one, at the server's ``[DONE]``, has the reason."""
        with self._reading:
            try:
                while not self._over:
                    if (delta := self._read()) is not None:
                        return delta
            except (OSError, HTTPException, ValueError, LookupError, AttributeError, TypeError) as error:
                if not self._over:
                    raise GlmError(f"the server's answer broke off: {error!r}") from error
            if self._aborted:
                raise glm_core.ClosedError("the model was closed")
            raise StopIteration

    def _read(self) -> Delta | None:
        """Read one line; return ``None`` for those without text."""
        if self._response is None:
            self._response = self._connection.getresponse()
            if self._response.status != 200:
                raise make_refusal(self._response)
        line = self._response.readline(LONGEST_LINE)
        if not line:
            raise ConnectionError("the connection ended")
        if not line.startswith(b"data:"):
            return None  # a comment, or the empty line between events
        if line[5:].strip() == b"[DONE]":
            self.close()
            counts = (self._usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
            return Delta("", (), "length" if self._reason == "length" else "stop", glm_core.Usage(*counts))
        event = json.loads(line[5:])
        if "error" in event:
            raise GlmError(f"the server gave up: {event['error']['message']}")
        piece = event["choices"][0] if event["choices"] else {}  # the event with the usage has none
        self._reason, self._usage = piece.get("finish_reason") or self._reason, event.get("usage") or {}
        text = piece.get("delta", {}).get("content") or piece.get("text")
        return Delta(text) if text else None

    def close(self) -> None:
        """Cancel: the server sees that nobody listens any more."""
        self._over = True
        with contextlib.suppress(OSError):  # the server was faster
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
        with self._reading:
            if self._response is not None:
                self._response.close()
            self._connection.close()

    def abort(self) -> None:
        """End the answer with an error, because the model is closed."""
        self._aborted = not self._over
        self.close()

    def __del__(self) -> None:
        self.close()


def make_refusal(response: HTTPResponse) -> GlmError:
    """Return the error that a status and its body mean."""
    text = response.read(LONGEST_LINE).decode("utf-8", "replace")
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]["message"]
    return KINDS.get(response.status, GlmError)(f"the server says {response.status}: {text[:500]}")
