"""Print every hook call with plugin, hook, time and outcome on standard error, for ``--trace-hooks``.

One line a call, as it returns::

    trace  backend_cpu    describe_backend       4.2 ms  BackendInfo
    trace  runtime_torch  load_model           152.0 ms  TorchModel
    trace  runtime_torch  chat_stream end      812.4 ms  34 items, first after 51.0 ms, stop

``import`` is the loading of the plugin itself. An answer that is read bit by bit has two lines: one
for the call and one, ``end``, once it was read to its end, closed or broken off by an error.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from .isolation import format_error

_lock = threading.Lock()
_users = 0  # who wants a trace now; a plain number, because hooks run on many threads


@contextlib.contextmanager
def enable_tracing(wanted: bool = True) -> Iterator[None]:
    """Trace every hook call of this process within the block, if ``wanted``."""
    global _users
    with _lock:
        _users += wanted
    try:
        yield
    finally:
        with _lock:
            _users -= wanted


def keep_tracing() -> None:
    """Trace every hook call of this process, for programs that run no command."""
    global _users
    with _lock:
        _users = _users or 1


class CallOutcome:
    """What became of one call; its ``text`` ends the line."""

    text = ""

    def note_answer(self, answer: object) -> None:
        """Note the type of the answer; ``None`` declines."""
        if isinstance(answer, (list, tuple)):
            self.text = f"{len(answer)} x {type(answer[0]).__name__}" if answer else "nothing"
        else:
            self.text = "declined" if answer is None else type(answer).__name__


@contextlib.contextmanager
def trace_call(plugin: str, hook: str) -> Iterator[CallOutcome]:
    """Print one line about the call made in the block, where tracing is on."""
    outcome = CallOutcome()
    if not _users:
        yield outcome
        return
    started = time.perf_counter()
    try:
        yield outcome
    except BaseException as error:
        outcome.text = f"raised {format_error(error)}"
        raise
    finally:
        _write(plugin, hook, time.perf_counter() - started, outcome.text)


def _write(plugin: str, hook: str, seconds: float, text: str) -> None:
    """Print one line, where tracing is on and there is a standard error."""
    if _users and sys.stderr is not None:
        line = f"trace  {plugin:20}  {hook:20}  {1000 * seconds:9.1f} ms  {text}\n"
        with _lock:
            sys.stderr.write(line)
            sys.stderr.flush()


def trace_items(plugin: str, hook: str, items: Any) -> Any:
    """Return the iterator; where tracing is on, one that prints a line when it ends."""
    return _TracedItems(plugin, hook, items) if _users else items


class _TracedItems(Iterator[Any]):
    """An iterator that counts what another gives and prints one line at its end."""

    def __init__(self, plugin: str, hook: str, items: Any) -> None:
        self._plugin, self._hook, self._items = plugin, hook, items
        self._started = time.perf_counter()
        self._count = 0
        self._first = 0.0
        self._reason = ""
        self._over = threading.Lock()

    def __next__(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            self._end(self._reason or "ended")
            raise
        except BaseException as error:
            self._end(f"raised {format_error(error)}")
            raise
        if not self._count:
            self._first = time.perf_counter() - self._started
        self._count += 1
        self._reason = str(getattr(item, "finish_reason", None) or "")
        return item

    def close(self) -> None:
        """Close the iterator, if it can be closed."""
        if (close := getattr(self._items, "close", None)) is not None:
            close()
        self._end(self._reason or "closed early")

    def _end(self, text: str) -> None:
        if self._over.acquire(blocking=False):  # once, whoever is first
            seconds = time.perf_counter() - self._started
            first = f"first after {1000 * self._first:.1f} ms, " if self._count else ""
            _write(self._plugin, f"{self._hook} end", seconds, f"{self._count} items, {first}{text}")
