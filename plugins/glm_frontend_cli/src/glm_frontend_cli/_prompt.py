"""The input line: keys, completion, and the file that remembers what was typed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from ._cleaning import clean
from ._commands import COMMANDS
from ._conversation import SETTINGS
from ._texts import Texts


class QuestionHistory(FileHistory):
    """Remembers questions in a file; a disk that fills up later costs the memory, not the chat."""

    def store_string(self, string: str) -> None:
        """Append one entry."""
        with contextlib.suppress(OSError):
            super().store_string(clean(string))


def open_history(say: Texts, notice: Callable[[str], None], *, keep: bool) -> History:
    """The history file in the user's state directory, readable by its owner only.

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
    """Completes commands, and what may follow some of them."""

    def __init__(self, adapters: tuple[str, ...], say: Texts) -> None:
        self._adapters = adapters
        self._say = say
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            for command in COMMANDS:
                for spelling in (command.name, *command.aliases):
                    if spelling.startswith(name.lower()):
                        meta = self._say(f"help_{command.name}")
                        yield Completion(spelling, -len(name), f"/{spelling}", meta)
        elif name in ("save", "save!", "load"):
            yield from self._paths.get_completions(Document(argument), complete_event)
        else:
            for word in self._words(name, argument):
                last = argument.rpartition(" ")[2]
                if word.startswith(last):
                    yield Completion(word, -len(last))

    def _words(self, name: str, argument: str) -> tuple[str, ...]:
        if name == "set":
            return SETTINGS if " " not in argument else ("default",)
        if " " in argument:
            return ()
        return {"adapter": (*self._adapters, "off"), "system": ("off",)}.get(name, ())


class PromptKeys:
    """The keys that differ from prompt_toolkit's own, and what Ctrl-C has done so far.

    Attributes:
        about_to_quit: whether Ctrl-C was the last thing pressed, so that another one quits.
        cleared: whether Ctrl-C has cleared the line since the prompt appeared.
    """

    def __init__(self) -> None:
        self.about_to_quit = False
        self.cleared = False
        self.bindings = KeyBindings()
        self.bindings.add("enter")(self._send)
        self.bindings.add("escape", "enter")(self._new_line)
        self.bindings.add("c-c")(self._interrupt)
        self.bindings.add("<sigint>")(self._interrupt)

    def start(self) -> None:
        """A new prompt appears."""
        self.about_to_quit = self.cleared = False

    def _send(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # take the chosen completion; another Enter sends
        else:
            buffer.validate_and_handle()

    def _new_line(self, event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    def _interrupt(self, event: KeyPressEvent) -> None:
        if self.about_to_quit:
            event.app.exit(exception=EOFError)
            return
        event.current_buffer.reset()
        self.cleared = self.about_to_quit = True
