"""A frontend of one page of code that keeps every promise, and one for each promise that it can break.

It listens on a port; a client sends a question in a line and gets the answer in a line. Its process
imports nothing of the tests.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import select
import signal
import socket
import threading
from collections.abc import Mapping
from typing import Any

from glm_core import ChatModel, ConfigError, Delta, GlmError
from glm_core.records import OpenModel


def run(open_model: OpenModel, options: Mapping[str, Any], *, flaw: str = "") -> None:
    """Serve until Ctrl-C.

    Args:
        open_model: opens the model.
        options: ``port``.
        flaw: the check that shall find something.
    """
    if flaw == "frontend-stops":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not 0 <= options["port"] <= 65535:
        if flaw == "frontend-options":
            open_model()
        raise ConfigError(f"--port must be 0 to 65535, got {options['port']}")
    try:
        server = socket.create_server(("127.0.0.1", options["port"]))
    except OSError as error:
        if flaw == "frontend-busy-port":
            raise
        raise ConfigError(f"port {options['port']} is in use; choose another with --port") from error
    with server, open_model() as model, contextlib.suppress(KeyboardInterrupt):
        while True:
            client, _ = server.accept()
            threading.Thread(target=_serve, args=(client, model, flaw), daemon=True).start()


def _serve(client: socket.socket, model: ChatModel, flaw: str) -> None:
    with client, client.makefile("r", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            try:
                text = _answer(client, model, line.strip(), flaw)
            except GlmError as error:
                if flaw == "frontend-survives":
                    model.close()
                text = f"error: {error}"
            if flaw == "frontend-converses":
                text = text[:100]
            if flaw != "frontend-escapes":
                text = text.replace("&", "&amp;").replace("<", "&lt;")
            with contextlib.suppress(OSError):
                client.sendall(f"{text}\n".encode())


def _answer(client: socket.socket, model: ChatModel, question: str, flaw: str) -> str:
    """The whole answer; empty if the client has gone."""
    pieces: queue.SimpleQueue[Delta | Exception | None] = queue.SimpleQueue()
    stream = model.chat_stream(question)

    def read() -> None:
        try:
            for delta in stream:
                pieces.put(delta)
            pieces.put(None)
        except Exception as error:  # handed to the thread that serves
            pieces.put(error)

    threading.Thread(target=read, daemon=True).start()
    text = ""
    while True:
        try:
            piece = pieces.get(timeout=0.02)
        except queue.Empty:
            gone = select.select([client], [], [], 0)[0] and not client.recv(1, socket.MSG_PEEK)
            if gone and flaw != "frontend-cancels":
                stream.close()
                return text
            continue
        if piece is None:
            return text
        if isinstance(piece, Exception):
            raise piece
        text += piece.text


stops_never = functools.partial(run, flaw="frontend-stops")
opens_first = functools.partial(run, flaw="frontend-options")
fails_on_busy_ports = functools.partial(run, flaw="frontend-busy-port")
closes_on_errors = functools.partial(run, flaw="frontend-survives")
cuts_answers = functools.partial(run, flaw="frontend-converses")
escapes_nothing = functools.partial(run, flaw="frontend-escapes")
never_cancels = functools.partial(run, flaw="frontend-cancels")
