"""Keep what goes wrong in a plugin the plugin's own: its errors name it, and its output is no result of ours.

Plugins are imported and called plainly, on the thread that needs them. A time limit would need a second
thread, and would leave an honest plugin on a slow disk behind; so whatever takes long is measured instead
(`glm doctor` names it), and Ctrl-C says which plugin was waited for. What else a plugin must not do to the
process (change its locale, environment, signal handlers, ...) is looked at before it is published, by the
conformance kit, which imports each plugin in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from .errors import GlmError, PluginError

LONGEST_TEXT = 300  # a plugin's text shares a line with ours; the rest is in GLM_DEBUG's traceback

_commands = 0  # how many commands run in this process; more than one in tests

_one_at_a_time = threading.RLock()
"""Standard output is the whole process's: two threads that divert it must not restore each other's."""


class PluginFailureError(PluginError):
    """A plugin raised what is not for the user; ``__cause__`` holds it."""


@contextlib.contextmanager
def wrap_plugin_errors(plugin: str, what: str) -> Iterator[None]:
    """Raise whatever the block raises as an error that names the plugin whose code it calls.

    The one place that decides which errors of plugins are for users. `GlmError` is, by definition.
    ``KeyboardInterrupt`` is the user's own. Everything else is the plugin's bug, also ``SystemExit``
    and other exceptions below ``BaseException``: no plugin ends the process of a command or server.

    Args:
        plugin: the plugin's name.
        what: what of it is called: a hook, ``import``, a member of its model.

    Raises:
        PluginFailureError: the block raised anything else than a `GlmError` or ``KeyboardInterrupt``.
    """
    try:
        yield
    except (GlmError, KeyboardInterrupt):
        raise
    except BaseException as error:  # see above
        raise PluginFailureError(
            f"{end_sentence(f'plugin {plugin!r} failed in {what}: {format_error(error)}')} "
            f"Report this to its author, or run with GLM_DISABLE_PLUGINS={plugin}."
        ) from error


def make_promise_error(plugin: str, what: str) -> PluginError:
    """Return the error for a plugin that did something that a hook's contract forbids."""
    return PluginError(f"plugin {plugin!r}: {what}; report this to its author")


def format_error(error: BaseException) -> str:
    """Return an exception's type and message in one line, whatever its ``__str__`` does."""
    try:
        text = to_one_line(str(error))
    except BaseException:  # ``__str__`` is the plugin's code, which may even try to exit
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def format_value(value: object) -> str:
    """Return the ``repr`` of a value in one line, or its type's name if ``__repr__`` raises."""
    try:
        return to_one_line(repr(value))
    except BaseException:  # ``__repr__`` is the plugin's code, which may even try to exit
        return f"a {type(value).__name__}"


def to_one_line(text: str) -> str:
    """Return a plugin's text in one line, control characters escaped, cut after `LONGEST_TEXT` characters."""
    line = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in " ".join(text[: 4 * LONGEST_TEXT].split())
    )
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}..."


def end_sentence(text: str) -> str:
    """Return a text that another sentence can follow: with a full stop, unless it has an end already."""
    return text if text.endswith((".", "!", "?", "。", "！", "？")) else f"{text}."


@contextlib.contextmanager
def mark_running_command() -> Iterator[None]:
    """Mark this process as a command of ours, in which `divert_output` has an effect."""
    global _commands
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


@contextlib.contextmanager
def divert_output() -> Iterator[None]:
    """Send what the block prints to standard error, if a command runs.

    A command's standard output is its result: one plugin that greets whoever imports it would break
    ``glm plugins --json`` for every script. Diverting costs three system calls, and nothing is lost.
    The descriptor is diverted as well as Python's stream, for programs that a plugin starts. In a
    program that only imports glm_core, standard output is not ours to touch.
    """
    if not _commands:
        yield
        return
    with _one_at_a_time, contextlib.redirect_stdout(sys.stderr):
        saved = None
        with contextlib.suppress(OSError):  # one of the two is closed
            saved = os.dup(1)
            os.dup2(2, 1)
        try:
            yield
        finally:
            if saved is not None:
                os.dup2(saved, 1)
                os.close(saved)
