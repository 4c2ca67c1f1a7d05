"""Frontends that break one promise each; see `broken_plugins`."""

from __future__ import annotations

import html
import socket
from pathlib import Path

from broken_plugins import breaks, frontend, subject_of
from glm_testing.conformance import Subject
from glm_testing.driver import FrontendDriver

from glm_core.records import Option


class LineDriver(FrontendDriver):
    """A client of `line_server`, which shows what it gets as HTML."""

    shows = "html"
    port_option = "port"

    def start(self) -> None:
        """Connect."""
        super().start()
        self._shown = ""
        self._connect()

    def ask(self, question: str) -> str:
        """A line for a line."""
        self.begin(question)
        line = self._lines.readline()
        self._shown += line
        return html.unescape(line)

    def begin(self, question: str) -> None:
        """Send the question."""
        self._socket.sendall(f"{question}\n".encode())

    def leave(self) -> None:
        """Hang up, and call again for the next question."""
        self.close()
        self._connect()

    def read_page(self) -> str:
        """Everything that came."""
        return self._shown

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self.port), self.frontend.patience)
        self._lines = self._socket.makefile("r", encoding="utf-8", newline="\n")


def line_server(function: str, *more: Option) -> Subject:
    """A plugin of one of the functions of `line_server`."""
    options = (Option("port", "TCP port", type=int, default=7000), *more)
    plugin = frontend(f"line_server:{function}", options=options)
    return subject_of(plugin, driver=LineDriver)


@breaks("frontend-run")
def absent_function(folder: Path) -> Subject:
    """Names a function that is not there."""
    return line_server("absent")


@breaks("frontend-loopback")
def open_to_all(folder: Path) -> Subject:
    """Listens on all addresses unless told otherwise."""
    return line_server("run", Option("host", "address", default="0.0.0.0"))


@breaks("frontend-converses")
def cuts_answers(folder: Path) -> Subject:
    """Shows the first hundred characters."""
    return line_server("cuts_answers")


@breaks("frontend-survives")
def closes_on_errors(folder: Path) -> Subject:
    """One failing answer is the last one."""
    return line_server("closes_on_errors")


@breaks("frontend-cancels")
def never_cancels(folder: Path) -> Subject:
    """Reads on for a client who has gone."""
    return line_server("never_cancels")


@breaks("frontend-escapes")
def escapes_nothing(folder: Path) -> Subject:
    """Puts answers into the page as they are."""
    return line_server("escapes_nothing")


@breaks("frontend-stops")
def stops_never(folder: Path) -> Subject:
    """Does not hear Ctrl-C."""
    return line_server("stops_never")


@breaks("frontend-options")
def opens_first(folder: Path) -> Subject:
    """Opens the model and then looks at its options."""
    return line_server("opens_first")


@breaks("frontend-busy-port")
def fails_on_busy_ports(folder: Path) -> Subject:
    """Ends with a traceback."""
    return line_server("fails_on_busy_ports")
