"""Logs and notices that never stop or delay a server, whatever becomes of the place they go to."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

# Lines that may wait to be written: a reader that is slow for a moment loses none of them.
_MAX_WAITING = 1000
_SECONDS_AT_THE_END = 2.0


def print_notice(line: str) -> None:
    """Print one line to standard error, if that can be written at all."""
    # A full disk, a pipe without a reader, a terminal that went: none is a reason to stop serving.
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:  # as it is where the process was started without one
            print(f"glm: {line}", file=sys.stderr, flush=True)


def open_standard_files() -> None:
    """Make sure that files 0 to 2 are open.

    A process may be started without them. The next file or connection would take the number, and whatever
    prints to standard error would print into it.
    """
    with contextlib.suppress(OSError):
        while True:
            number = os.open(os.devnull, os.O_RDWR)
            if number > 2:
                os.close(number)
                return


@contextlib.contextmanager
def write_logs_on_thread() -> Iterator[None]:
    """Have the program's log written by a thread of its own for the length of a ``with`` block.

    A log that goes to a full disk is lost line by line, and one that goes to a pipe which nobody reads
    would hold up whoever writes; neither may be the event loop that serves everybody.
    """
    root = logging.getLogger()
    # Exactly this class: what others put there, such as files that rotate or a test's list, is their own.
    plain = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    replaced = [(handler, _ThreadHandler(handler)) for handler in plain]
    for handler, writer in replaced:
        root.removeHandler(handler)
        root.addHandler(writer)
    try:
        yield
    finally:
        for handler, writer in replaced:
            root.removeHandler(writer)
            root.addHandler(handler)
            writer.close()


class _ThreadHandler(logging.Handler):
    """Passes records to a handler of text on a thread; what the thread cannot keep up with is left out."""

    def __init__(self, target: logging.StreamHandler[TextIO]) -> None:
        super().__init__(target.level)
        self.setFormatter(target.formatter)
        self._stream = target.stream
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="glm-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record's text to the thread, or drop it where too many wait."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            pass
        except Exception:  # as every handler does: a wrong call of the log never reaches its caller
            self.handleError(record)

    def close(self) -> None:
        """Let the thread finish, for a moment at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_SECONDS_AT_THE_END)
            self._thread.join(_SECONDS_AT_THE_END)
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            # Full, closed, or (where the process was started without one) no stream at all.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                self._stream.write(f"{line}\n")
                self._stream.flush()
