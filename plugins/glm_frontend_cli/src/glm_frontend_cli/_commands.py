"""The slash commands: one function each, and the table that names them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glm_core import ModelInfo, RequestError
from glm_core.conversation import SETTINGS
from glm_core.language import format_count

from . import _adapter_command, _files
from ._blocks import find_code_blocks

if TYPE_CHECKING:
    from ._session import Session

_SPELLINGS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: as typed, without the slash; the text ``help_NAME`` explains it.
        run: called with the session and what was typed after the name.
        usage: what may follow the name.
        aliases: other names.
    """

    name: str
    run: Callable[[Session, str], None]
    usage: str = ""
    aliases: tuple[str, ...] = ()


def normalize_slash(line: str) -> str:
    """Return ``line`` with a slash in place of the character that a Chinese keyboard types for it.

    Only before the name of a command: other text may begin with such a character.
    """
    name = line[1:].split(" ", 1)[0].lower()
    return f"/{line[1:]}" if line[:1] in ("／", "、") and name in BY_NAME else line


def run_command(session: Session, line: str) -> None:
    """Run the command in ``line``, which starts with a slash."""
    name, _, argument = line[1:].partition(" ")
    command = BY_NAME.get(name.strip().lower())
    if command is not None:
        command.run(session, argument.strip())
        return
    close = difflib.get_close_matches(name.lower(), BY_NAME, n=1)
    guess = session.say("guess", name=f"/{close[0]}") if close else ""
    session.view.show_error(session.say("unknown_command", name=f"/{name}", guess=guess))


def show_help(session: Session, argument: str) -> None:
    """Run ``/help``: list all commands."""
    typed = [f"/{command.name} {command.usage}".strip() for command in COMMANDS]
    column = max(map(len, typed)) + 2
    lines = [
        f"{usage:<{column}}{session.say(f'help_{command.name}')}"
        for usage, command in zip(typed, COMMANDS, strict=True)
    ]
    session.view.show("\n".join([*lines, "", session.say("help_footer")]))


def clear(session: Session, argument: str) -> None:
    """Run ``/clear``: forget the conversation."""
    session.conversation.clear()
    session.usage = None
    session.view.clear()
    session.view.show_notice(session.say("cleared"))


def quit_chat(session: Session, argument: str) -> None:
    """Run ``/exit``: end the chat."""
    session.quit()


def regenerate(session: Session, argument: str) -> None:
    """Run ``/regenerate``: answer the last question again."""
    question, seed = session.last_question, session.conversation.seed
    if question is None:
        session.view.show_notice(session.say("nothing_yet"))
        return
    if seed is not None and session.last_is_answered:
        session.view.show_notice(session.say("same_seed", seed=seed))
    session.ask(question, replacing=session.last_is_answered)


def undo(session: Session, argument: str) -> None:
    """Run ``/undo``: take back the last question and its answer."""
    question = session.conversation.undo()
    if question is None:
        session.view.show_notice(session.say("nothing_yet"))
    else:
        session.view.show_notice(session.say("undone", question=_shorten(question)))


def edit(session: Session, argument: str) -> None:
    """Run ``/edit [TEXT]``: change the last question, to ``TEXT`` if it is given."""
    question = session.last_question
    if question is None:
        session.view.show_notice(session.say("nothing_yet"))
    elif argument:
        session.ask(argument, replacing=session.last_is_answered)
    elif session.view.can_prefill:
        session.edit(question)
    else:
        session.view.show_error(session.say("usage", usage="/edit TEXT"))


def ask_about_file(session: Session, argument: str) -> None:
    """Run ``/file FILE [QUESTION]``: send a text file, with a question about it."""
    name, question = _split_first_word(argument)
    if not name:
        session.view.show_error(session.say("usage", usage="/file FILE [QUESTION]"))
        return
    path = _files.parse_path(name)
    text = _files.read_text(path, session.say)
    session.view.show_notice(session.say("file_sent", path=path, lines=text.count("\n") + 1))
    if question:
        fence = max(re.findall("`{3,}", text), key=len, default="``") + "`"
        text = f"{question}\n\n{path.name}\n{fence}\n{text}\n{fence}"
    session.ask(text)


def _split_first_word(text: str) -> tuple[str, str]:
    """Return the first word, which quotation marks may hold together, and the rest."""
    end = text.find(text[0], 1) if text[:1] in ("'", '"') else -1
    if end > 0:
        return text[: end + 1], text[end + 1 :].strip()
    word, _, rest = text.partition(" ")
    return word, rest.strip()


def copy(session: Session, argument: str) -> None:
    """Run ``/copy [code]``: copy the last answer, or its last block of code."""
    turns = session.conversation.turns
    if not turns:
        session.view.show_notice(session.say("nothing_yet"))
        return
    text = turns[-1].answer
    if argument == "code":
        blocks = find_code_blocks(text)
        if not blocks:
            session.view.show_notice(session.say("no_code"))
            return
        text = blocks[-1]
    elif argument:
        session.view.show_error(session.say("usage", usage="/copy [code]"))
        return
    copied = session.view.copy(text)
    if copied is None:
        session.view.show_error(session.say("copy_impossible"))
    else:
        session.view.show_notice(session.say("copied") if copied else session.say("copy_sent"))


def save(session: Session, argument: str) -> None:
    """Run ``/save FILE``: write the conversation to a new file."""
    _save(session, argument, overwrite=False)


def save_over(session: Session, argument: str) -> None:
    """Run ``/save! FILE``: write the conversation, over a file that exists."""
    _save(session, argument, overwrite=True)


def _save(session: Session, argument: str, *, overwrite: bool) -> None:
    if not argument:
        session.view.show_error(session.say("usage", usage=f"/save{'!' if overwrite else ''} FILE"))
        return
    path = _files.parse_path(argument)
    mine = path.resolve() in session.saved_paths
    if path.exists() and not overwrite and not mine:
        session.view.show_error(session.say("file_exists", path=path))
        return
    _files.save(session.conversation, path, session.say)
    session.saved_paths.add(path.resolve())
    session.view.show_notice(session.say("saved", path=path))


def load(session: Session, argument: str) -> None:
    """Run ``/load FILE``: go on with a conversation from a file."""
    if not argument:
        session.view.show_error(session.say("usage", usage="/load FILE"))
        return
    path = _files.parse_path(argument)
    session.use(_files.load(path, session.say))
    session.view.show_notice(session.say("loaded", path=path, count=len(session.conversation.turns)))
    if session.conversation.unanswered:
        session.view.show_notice(session.say("question_waits"))


def change_system(session: Session, argument: str) -> None:
    """Run ``/system [TEXT|off]``: show, set or remove the system prompt."""
    conversation = session.conversation
    if not argument:
        text = conversation.system
        session.view.show(session.say("system_is", text=text) if text else session.say("system_none"))
    elif argument.lower() == "off":
        conversation.system = ""
        session.view.show_notice(session.say("system_removed"))
    else:
        conversation.system = argument
        session.view.show_notice(session.say("system_set"))


def set_value(session: Session, argument: str) -> None:
    """Run ``/set [NAME [VALUE|default]]``: show or change settings."""
    name, _, value = argument.replace("=", " ").partition(" ")
    name, value = name.replace("-", "_"), value.strip()
    if not name:
        session.view.show("\n".join(_format_setting(session, name) for name in SETTINGS))
        return
    if name not in SETTINGS:
        session.view.show_error(session.say("unknown_setting", name=name, names=", ".join(SETTINGS)))
        return
    if value:
        try:
            session.conversation.change(name, None if value.lower() == "default" else parse_value(value))
        except RequestError as error:
            session.view.show_error(str(error))
            return
    session.view.show(_format_setting(session, name))


def parse_value(text: str) -> bool | int | float | str:
    """Return what was typed as the most specific type that fits; `Conversation.change` checks it."""
    if text.lower() in _SPELLINGS:
        return _SPELLINGS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _format_setting(session: Session, name: str) -> str:
    value = session.conversation.get_setting(name)
    if value is not None:
        return session.say("setting", name=name, value=value)
    default = getattr(session.model.info.sampling, name, None)
    if default is None:
        default = session.say("value_random" if name == "seed" else "value_unlimited")
    return session.say("setting_default", name=name, value=default)


def show_info(session: Session, argument: str) -> None:
    """Run ``/info``: show facts about the model and the last answer."""
    facts, usage = session.model.info, session.usage
    lines = [
        session.say(
            "info",
            model=facts.name,
            family=facts.family,
            parameters=format_count(facts.num_parameters),
            context=facts.context_length,
            place=describe_place(facts) or session.say("unknown"),
            adapters=", ".join(facts.adapters) or session.say("none"),
            turns=len(session.conversation.turns),
        )
    ]
    if usage is not None:
        lines.append(
            session.say(
                "info_answer",
                prompt=usage.prompt_tokens,
                count=usage.completion_tokens,
                speed=usage.tokens_per_second,
                first=usage.time_to_first_token,
                queue=usage.queue_seconds,
            )
        )
    session.view.show("\n".join(lines))


def show_history(session: Session, argument: str) -> None:
    """Run ``/history``: show the whole conversation."""
    if session.conversation.turns:
        session.view.show_turns(session.conversation.turns)
    else:
        session.view.show_notice(session.say("nothing_yet"))


def describe_place(facts: ModelInfo) -> str:
    """Return what the model computes on and in, such as ``cpu bfloat16``; empty if it does not say."""
    return " ".join([", ".join(facts.devices), facts.dtype]).strip()


def _shorten(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


COMMANDS = (
    Command("help", show_help, aliases=("?",)),
    Command("clear", clear),
    Command("exit", quit_chat, aliases=("quit", "stop", "bye")),
    Command("regenerate", regenerate, aliases=("retry",)),
    Command("undo", undo),
    Command("edit", edit, "[TEXT]"),
    Command("file", ask_about_file, "FILE [QUESTION]"),
    Command("copy", copy, "[code]"),
    Command("save", save, "FILE"),
    Command("save!", save_over, "FILE"),
    Command("load", load, "FILE"),
    Command("system", change_system, "[TEXT|off]"),
    Command("adapter", _adapter_command.change_adapter, _adapter_command.USAGE),
    Command("set", set_value, "[NAME [VALUE|default]]"),
    Command("info", show_info),
    Command("history", show_history),
)
BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
