"""Running a plugin's code so that what goes wrong in it stays its own: errors, hanging, side effects."""

from __future__ import annotations

import contextlib
import locale
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .errors import GlmError, PluginError

T = TypeVar("T")

LONGEST_TEXT = 300
HEAVY = ("torch", "transformers", "tensorflow", "jax", "numpy", "pandas", "gradio", "fastapi")
_THREAD_NAME = "glm-plugin"
_commands = 0  # how many commands run in this process
_one_at_a_time = threading.RLock()  # two hosts may be built on two threads


class TookTooLongError(Exception):
    """A plugin did not return in time; its thread was left behind."""


def within(seconds: float, function: Callable[[], T]) -> T:
    """Run ``function`` on a thread of its own and wait at most ``seconds``.

    A thread cannot be stopped, so one that hangs is left behind as a daemon; it ends with the process.

    Raises:
        TookTooLongError: it has not returned by then.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name=_THREAD_NAME)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TookTooLongError(f"took longer than {seconds:g} seconds and was left behind")
    if failure:
        raise failure[0]
    return outcome[0]


@contextlib.contextmanager
def blamed(plugin: str, what: str) -> Iterator[None]:
    """Whatever the block raises that is not for the user names the plugin whose code it calls.

    Raises:
        PluginError: with the original as its ``__cause__``.
    """
    try:
        yield
    except (GlmError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever the plugin does, it is named as the cause
        raise PluginError(
            f"plugin {plugin!r} failed in {what}: {said(error)}. Report this to its author."
        ) from error


def said(error: BaseException) -> str:
    """An exception in one line, whatever its ``__str__`` does."""
    try:
        text = printable(str(error))
    except BaseException:  # written by the plugin; also an exit in it is the plugin's
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(value: object) -> str:
    """A value as `repr` shows it, in one line, whatever its ``__repr__`` does."""
    try:
        return printable(repr(value))
    except BaseException:  # written by the plugin; also an exit in it is the plugin's
        return f"a {type(value).__name__}"


def printable(text: str) -> str:
    """Text of a plugin in one line without control characters, cut where it gets too long to read."""
    line = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in " ".join(text[: 4 * LONGEST_TEXT].split())
    )
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}..."


@contextlib.contextmanager
def side_effects(*, importing: bool) -> Iterator[list[str]]:
    """Notice what a plugin's thread does to the whole process, and undo what can be undone.

    Text printed to standard output, which belongs to the commands, is kept out of it. Python itself
    refuses signal handlers that are not set on the main thread.

    Args:
        importing: also look at what only code at module level changes by mistake: working
            directory, locale, root logger and standard streams, all put back; environment
            variables and threads, which stay.

    Yields:
        A list that holds one remark for each once the block is left.
    """
    remarks: list[str] = []
    with _one_at_a_time:
        output, before = _OutputOfOthers(sys.stdout), _State(importing)
        streams = sys.stdout, sys.stderr
        sys.stdout = output
        try:
            with _programs_print_elsewhere():
                yield remarks
        finally:
            if sys.stdout is not output or sys.stderr is not streams[1]:
                remarks.append("replaces a standard stream of the process (undone)")
            sys.stdout, sys.stderr = streams
            if output.kept:
                text = printable("".join(output.kept)[:80])
                remarks.append(
                    f"prints to standard output, which belongs to the commands: {text!r} (left out)"
                )
            remarks.extend(before.changes())


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """Say that this process is a command of ours, in which also descriptors may be turned aside."""
    global _commands
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


@contextlib.contextmanager
def _programs_print_elsewhere() -> Iterator[None]:
    """In a command: what a plugin prints past Python (a program that it starts) goes to standard error."""
    saved = None
    if _commands:
        with contextlib.suppress(OSError):  # one of the two is closed
            saved = os.dup(1)
            os.dup2(2, 1)
    try:
        yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


class _OutputOfOthers:
    """Standard output for all threads but a plugin's, whose text is kept."""

    def __init__(self, stream: Any) -> None:
        self.kept: list[str] = []
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name == _THREAD_NAME:
            self.kept.append(text)
            return len(text)
        return 0 if self._stream is None else int(self._stream.write(text))

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _State:
    """What a plugin has no business to change, as it is at one moment."""

    def __init__(self, importing: bool) -> None:
        self._importing = importing
        self._heavy = {name for name in HEAVY if name in sys.modules}
        if importing:
            root = logging.getLogger()
            self._folder = _working_directory()
            self._locale = locale.setlocale(locale.LC_ALL)
            self._log = (root.level, list(root.handlers))
            self._environ = dict(os.environ)
            self._threads = set(threading.enumerate())
            self._alone = all(thread.daemon or thread is threading.main_thread() for thread in self._threads)

    def changes(self) -> Iterator[str]:
        """A remark for each change since then; puts back what can be put back."""
        heavy = [name for name in HEAVY if name in sys.modules and name not in self._heavy]
        if heavy:
            yield f"imports {', '.join(heavy)} before use, which slows every command"
        if self._importing:
            yield from self._changes_at_import()

    def _changes_at_import(self) -> Iterator[str]:
        if self._folder is not None and _working_directory() != self._folder:
            os.chdir(self._folder)
            yield "changes the working directory (undone)"
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
            yield "changes the locale (undone)"
        root = logging.getLogger()
        if (root.level, root.handlers) != self._log:
            root.setLevel(self._log[0])
            root.handlers[:] = self._log[1]
            yield "changes the root logger (undone)"
        names = {**self._environ, **os.environ}
        changed = [name for name in names if os.environ.get(name) != self._environ.get(name)]
        if changed:
            yield f"changes the environment variables {', '.join(sorted(changed))}"
        started = set(threading.enumerate()) - self._threads
        if self._alone and any(not thread.daemon for thread in started):  # else it may be somebody else's
            yield "starts a thread that is no daemon and may keep commands from ending"


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
