"""``/adapter``: which adapter answers, and which ones there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _files

if TYPE_CHECKING:
    from ._session import Session

USAGE = "[NAME|off|add [NAME=]DIR|remove NAME]"
BASE_NAMES = ("off", "none")
CHANGES = ("add", "remove")


def change_adapter(session: Session, argument: str) -> None:
    """Run ``/adapter``, followed by nothing, a name, ``off``, ``add [NAME=]DIR`` or ``remove NAME``.

    An adapter whose name is one of these words is chosen by that name.
    """
    loaded = session.model.info.adapters
    word, _, rest = argument.partition(" ")
    if not argument:
        _show_adapters(session)
    elif argument in loaded:
        _choose(session, argument)
    elif argument.lower() in BASE_NAMES:
        _choose(session, None)
    elif word.lower() == "add":
        _add(session, rest.strip())
    elif word.lower() == "remove":
        _remove(session, rest.strip())
    elif loaded:
        session.view.show_error(session.say("adapter_unknown", name=argument, names=", ".join(loaded)))
    else:
        session.view.show_error(session.say("adapter_none_loaded"))


def _show_adapters(session: Session) -> None:
    say, loaded = session.say, session.model.info.adapters
    if not loaded:
        session.view.show_notice(say("adapter_none_loaded"))
        return
    current = session.conversation.adapter or say("adapter_base")
    session.view.show(say("adapter_list", names=", ".join(loaded), current=current))


def _choose(session: Session, name: str | None) -> None:
    session.conversation.adapter = name
    session.view.show_notice(session.say("adapter_now", current=name or session.say("adapter_base")))


def _add(session: Session, argument: str) -> None:
    name, separator, directory = argument.partition("=")
    path = _files.parse_path(directory.strip() if separator else argument)
    name = name.strip() if separator else path.resolve().name
    if not name or not (directory.strip() if separator else argument):
        session.view.show_error(session.say("usage", usage="/adapter add [NAME=]DIR"))
        return
    session.model.add_adapter(name, path)
    session.view.show_notice(session.say("adapter_added", name=name))


def _remove(session: Session, name: str) -> None:
    if not name:
        session.view.show_error(session.say("usage", usage="/adapter remove NAME"))
        return
    session.model.remove_adapter(name)
    session.view.show_notice(session.say("adapter_removed", name=name))
    if session.conversation.adapter == name:
        _choose(session, None)
