"""Talk to a frontend as the conformance kit does: its process, and the driver that an author writes.

The kit starts a frontend in a process of its own, on the model of `glm_testing.scripted_model`.
What its users do there (press keys, send requests, click) only its author knows: a class derived from
`FrontendDriver`, which is named with ``--glm-driver MODULE:CLASS``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

_POLL_SECONDS = 0.02  # between two looks at a port or a file; a frontend takes a second to start


class FrontendGoneError(Exception):
    """The frontend's process ended, or did not do in time what it was waited for."""


class FrontendProcess:
    """One frontend in a process of its own.

    Args:
        run: ``"package.module:function"``, as its description says.
        options: what to start it with beside what is given to `start`.
        folder: an empty directory for this process.
        patience: seconds to wait for something that should happen.
    """

    def __init__(self, run: str, options: Mapping[str, Any], folder: Path, patience: float) -> None:
        self.patience = patience
        self._run = run
        self._options = dict(options)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved: socket.socket | None = None
        self._output = b""
        self._arrived = threading.Condition()

    def reserve_port(self) -> int:
        """Return a free port and keep it until the frontend that is started next listens on it.

        A number alone could be given to another program before the frontend has imported what it needs.
        The port is therefore held by a bound socket, which the frontend's process takes over; what is bound
        and does not listen is in nobody's way who sets SO_REUSEADDR, as servers do.
        """
        self._release_port()
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        port: int = self._reserved.getsockname()[1]
        if os.name != "posix":  # a process cannot take over a socket there by its number
            self._release_port()
        return port

    def _release_port(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def start(self, options: Mapping[str, Any]) -> None:
        """Start the frontend with these options; one that runs already is ended first."""
        reserved, self._reserved = self._reserved, None  # which `kill` would give back
        self.kill()
        passed = () if reserved is None else (reserved.fileno(),)
        wanted = {"run": self._run, "options": {**self._options, **options}, "reserved": passed}
        (self._folder / "start.json").write_text(json.dumps(wanted), "utf-8")
        (self._folder / "events.jsonl").write_text("")
        self._output = b""
        with (self._folder / "errors.txt").open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603  # this very interpreter
                [sys.executable, "-m", "glm_testing._scripted_frontend", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=passed,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                    "PYTHONIOENCODING": "utf-8",
                    "PYTHONUNBUFFERED": "1",
                    "GLM_LANG": "en",
                },
            )
        if reserved is not None:
            reserved.close()  # the process has its own
        threading.Thread(target=self._read_output, args=(self._process,), daemon=True).start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the running process.

        Raises:
            FrontendGoneError: it was not started.
        """
        if self._process is None:
            raise FrontendGoneError("the frontend was not started")
        return self._process

    @property
    def output(self) -> str:
        """Return everything on its standard output so far."""
        return self._output.decode("utf-8", "replace")

    @property
    def errors(self) -> str:
        """Return everything on its standard error so far."""
        file = self._folder / "errors.txt"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def write_line(self, text: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{text}\n".encode())
            self.process.stdin.flush()
        except OSError as error:
            raise FrontendGoneError(
                f"it no longer reads its input ({error}); it said: {self.errors}"
            ) from error

    def read_line(self, number: int) -> str:
        """Return line ``number`` of its output, from 0, as soon as it is whole.

        Raises:
            FrontendGoneError: it does not come.
        """
        with self._arrived:
            come = self._arrived.wait_for(lambda: self._output.count(b"\n") > number, self.patience)
        if not come:
            last = f"{self.output[-300:]}{self.errors[-300:]}"
            raise FrontendGoneError(f"line {number} of its output never came; it said last: {last}")
        return self.output.split("\n")[number].removesuffix("\r")

    def wait_for_port(self, port: int, host: str = "127.0.0.1") -> None:
        """Wait until it listens.

        Raises:
            FrontendGoneError: it does not, or it ended.
        """

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((host, port)) == 0

        if not self.wait_until(listens):
            raise FrontendGoneError(
                f"nothing listens on port {port}; the frontend said: {self.errors or 'nothing'}"
            )

    def count_events(self, event: str, question: str | None = None) -> int:
        """Count how often something happened to the model: ``opened``, ``begun``, ``ended``, ``closed``."""
        lines = (self._folder / "events.jsonl").read_text("utf-8").splitlines()
        notes = [json.loads(line) for line in lines]
        return sum(
            note["event"] == event and (question is None or note["question"].strip() == question)
            for note in notes
        )

    def wait_for_event(self, event: str, question: str | None = None) -> bool:
        """Wait for an event and return whether it came."""
        return self.wait_until(lambda: self.count_events(event, question) > 0, while_running=False)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(getattr(signal, "CTRL_C_EVENT", signal.SIGINT))

    def terminate(self) -> None:
        """Ask it to end, as a service manager does."""
        if self.process.poll() is None:
            self.process.terminate()

    def close_input(self) -> None:
        """End its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> int | None:
        """Wait for its end and return its exit status, or ``None`` if it does not end."""
        try:
            return self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it at once, if it runs."""
        self._release_port()
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what it had not read cannot be flushed
                continue
        self._process = None

    def _read_output(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                with self._arrived:
                    self._output += chunk
                    self._arrived.notify_all()
        except (OSError, ValueError):  # closed by `kill`
            return

    def wait_until(self, condition: Callable[[], object], *, while_running: bool = True) -> bool:
        """Wait for something to come true and return whether it did.

        Args:
            condition: looked at again and again.
            while_running: give up when the process has ended.
        """
        end = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > end or (while_running and self.process.poll() is not None):
                return False
            time.sleep(_POLL_SECONDS)
        return True


class FrontendDriver(ABC):
    """A user of a frontend, made by the author of the plugin; one object for each time that it is started.

    Attributes:
        shows: what becomes of an answer: ``"html"`` for browsers and ``"terminal"`` must be made
            harmless, ``"data"`` goes to other programs as it is.
        port_option: the option that takes the port to listen on; ``None`` = it listens nowhere.
        bad_options: options that cannot be right; default = a port that does not exist.

    Args:
        frontend: the process to start and to talk to.
        port: a free port to start it on, which nobody else gets meanwhile.
    """

    shows: ClassVar[Literal["html", "terminal", "data"]] = "data"
    port_option: ClassVar[str | None] = None
    bad_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, frontend: FrontendProcess, port: int) -> None:
        self.frontend = frontend
        self.port = port

    def start(self) -> None:
        """Start the frontend and wait until it can be asked; more where that takes more."""
        self.frontend.start({self.port_option: self.port} if self.port_option else {})
        if self.port_option:
            self.frontend.wait_for_port(self.port)

    @abstractmethod
    def ask(self, question: str) -> str:
        """Ask one question and return the text of the whole answer as the user gets it."""

    @abstractmethod
    def begin(self, question: str) -> None:
        """Ask a question and do not wait for the answer's end."""

    @abstractmethod
    def leave(self) -> None:
        """Go away in the middle of the answer that was begun: close the connection, press Ctrl-C."""

    def read_page(self) -> str:
        """Return what is on the screen now: the HTML of the conversation, or the terminal's raw output."""
        return self.frontend.output

    def stop(self) -> None:
        """End the frontend as its users do; Ctrl-C unless said otherwise."""
        self.frontend.interrupt()

    def close(self) -> None:  # noqa: B027  # most have nothing to do here
        """Give back what the driver itself holds."""
