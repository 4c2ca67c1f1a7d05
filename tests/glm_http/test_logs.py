"""Logs and notices that cannot be written."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from glm_http.logs import print_notice, write_logs_on_thread
from patience import PATIENCE_SECONDS

logger = logging.getLogger("tests.glm_http")


class FullDisk(io.StringIO):
    """A stream that takes nothing."""

    def write(self, text: str) -> int:
        """Fail as a full disk does."""
        raise OSError(28, "No space left on device")


class Stuck(io.StringIO):
    """A stream that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        """Wait, and then take the text."""
        assert self.released.wait(PATIENCE_SECONDS)
        return super().write(text)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger without handlers of the test run."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers


def add_stream(root: logging.Logger, stream: io.TextIOBase) -> logging.StreamHandler[Any]:
    """Have the log written to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root.addHandler(handler)
    return handler


def test_log_is_written_by_a_thread_as_it_would_be(root: logging.Logger) -> None:
    """Every line, in order and in its format; afterwards the handler is the old one."""
    stream = io.StringIO()
    add_stream(root, stream)
    before = root.handlers[:]
    with write_logs_on_thread():
        assert root.handlers != before
        for number in range(100):
            logger.warning("line %d", number)
    assert stream.getvalue().splitlines() == [f"WARNING line {number}" for number in range(100)]
    assert root.handlers == before


@pytest.mark.parametrize("kind", ["full", "closed", "none"])
def test_log_that_cannot_be_written_stops_nobody(
    root: logging.Logger, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a closed stream, no stream: lines are lost, without a word elsewhere."""
    stream = FullDisk() if kind == "full" else io.StringIO()
    handler = add_stream(root, stream)
    if kind == "closed":
        stream.close()
    if kind == "none":
        handler.stream = None
    with write_logs_on_thread():
        logger.error("lost")
        logger.error("lost as well")
    assert capsys.readouterr() == ("", "")


def test_log_that_is_stuck_holds_nobody_up(root: logging.Logger) -> None:
    """Where nobody reads what is written, lines wait, then are dropped, and the program goes on."""
    stream = Stuck()
    add_stream(root, stream)
    with write_logs_on_thread():
        for number in range(3000):
            logger.warning("%d", number)
        stream.released.set()
    lines = stream.getvalue().splitlines()
    assert 1000 <= len(lines) < 3000
    assert lines == [f"WARNING {number}" for number in range(len(lines))]


@pytest.mark.parametrize("kind", ["full", "closed", "none"])
def test_notice_that_cannot_be_printed_stops_nobody(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of standard error, a notice is no reason to fail."""
    stream = FullDisk() if kind == "full" else io.StringIO()
    if kind == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", None if kind == "none" else stream)
    print_notice("serving")


def test_notice_is_a_line_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """It begins as all lines of this program do."""
    print_notice("serving")
    assert capsys.readouterr().err == "glm: serving\n"
