"""The input line: keys, completion, and the file that remembers what was typed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from glm_core.cleaning import clean_text
from glm_core.conversation import SETTINGS

from ._adapter_command import CHANGES
from ._commands import COMMANDS
from ._pasting import Pastes
from ._texts import Texts

SWITCHES = ("do_sample", "ignore_eos")
"""The settings that are true or false."""


class QuestionHistory(FileHistory):
    """Remembers questions in a file; a disk that fills up later costs the memory, not the chat."""

    def store_string(self, string: str) -> None:
        """Append one entry."""
        with contextlib.suppress(OSError):
            super().store_string(clean_text(string))


def open_history(say: Texts, notice: Callable[[str], None], *, keep: bool) -> History:
    """Open the history file in the user's state directory, readable by its owner only.

    Args:
        say: the texts.
        notice: told why, if the file cannot be written and memory has to do.
        keep: ``False`` = memory only.
    """
    if not keep:
        return InMemoryHistory()
    path = Path(platformdirs.user_state_path("glm")) / "cli_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        path.open("rb").close()
    except OSError as error:
        notice(say("no_history_file", path=path, reason=error.strerror or error))
        return InMemoryHistory()
    return QuestionHistory(str(path))


class CommandCompleter(Completer):
    """Completes commands, and what may follow some of them.

    Args:
        adapters: names that there are now, asked for at every completion.
        say: the texts.
    """

    def __init__(self, adapters: Callable[[], tuple[str, ...]], say: Texts) -> None:
        self._adapters = adapters
        self._say = say
        self._paths = PathCompleter(expanduser=True)
        self._directories = PathCompleter(expanduser=True, only_directories=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what may stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            for command in COMMANDS:
                fitting = [word for word in (command.name, *command.aliases) if word.startswith(name.lower())]
                if fitting:
                    meta = self._say(f"help_{command.name}")
                    yield Completion(fitting[0], -len(name), f"/{fitting[0]}", meta)
        elif name in ("save", "save!", "load", "file"):
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif name == "adapter" and argument.startswith("add "):
            typed = argument.removeprefix("add ").rpartition("=")[2]
            yield from self._directories.get_completions(Document(typed), complete_event)
        else:
            for word in self._list_words(name, argument):
                last = argument.rpartition(" ")[2]
                if word.startswith(last):
                    yield Completion(word, -len(last))

    def _list_words(self, name: str, argument: str) -> tuple[str, ...]:
        if name == "set":
            setting, space, _ = argument.partition(" ")
            if not space:
                return SETTINGS
            return ("true", "false", "default") if setting in SWITCHES else ("default",)
        if name == "adapter" and argument.startswith("remove "):
            return self._adapters() if argument.count(" ") == 1 else ()
        if " " in argument:
            return ()
        adapters = (*self._adapters(), "off", *CHANGES) if name == "adapter" else ()
        words = {"adapter": adapters, "system": ("off",), "copy": ("code",)}
        return words.get(name, ())


class PromptKeys:
    """The keys that differ from prompt_toolkit's own, and what Ctrl-C has done so far.

    Args:
        pastes: where long pasted text goes.

    Attributes:
        about_to_quit: whether Ctrl-C was the last thing pressed, so that another one quits.
        cleared: whether Ctrl-C has cleared the line since the prompt appeared.
    """

    def __init__(self, pastes: Pastes) -> None:
        self.about_to_quit = False
        self.cleared = False
        self._pastes = pastes
        self.bindings = KeyBindings()
        # While the history is searched, Enter and Ctrl-C belong to the search.
        self.bindings.add("enter", filter=~is_searching)(self._send)
        self.bindings.add("c-c", filter=~is_searching)(self._interrupt)
        self.bindings.add("<sigint>")(self._interrupt)
        self.bindings.add("escape", "enter", filter=~is_searching)(self._insert_new_line)
        self.bindings.add("c-j", filter=~is_searching)(self._insert_new_line)
        self.bindings.add("backspace", filter=~is_searching)(self._delete)
        self.bindings.add(Keys.BracketedPaste, filter=~is_searching)(self._paste)

    def start(self) -> None:
        """Forget what Ctrl-C has done, since a new prompt appears."""
        self.about_to_quit = self.cleared = False

    def _send(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # take the chosen completion; another Enter sends
        elif buffer.document.text_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()  # as in a shell: a backslash goes on in the next line
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    def _insert_new_line(self, event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    def _paste(self, event: KeyPressEvent) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        event.current_buffer.insert_text(self._pastes.shorten(text))

    def _delete(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        mark = self._pastes.find_mark(buffer.document.text_before_cursor)
        buffer.delete_before_cursor(len(mark) or event.arg)

    def _interrupt(self, event: KeyPressEvent) -> None:
        if self.about_to_quit:
            event.app.exit(exception=EOFError)
            return
        event.current_buffer.reset()
        self.cleared = self.about_to_quit = True
