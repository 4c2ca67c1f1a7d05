"""From what the user calls a model to what a runtime can open."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import ModelNotFoundError
from .plugins import PluginHost
from .records import ModelCard

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_KNOWN_PACKAGES = {"demo": "glm-model-demo"}


@dataclass(frozen=True)
class Resolved:
    """A name, and where its files are; ``path`` is ``None`` for a model that has no files here."""

    name: str
    path: Path | None


def known_models(host: PluginHost) -> tuple[ModelCard, ...]:
    """Every model that a plugin names, sorted by name."""
    described = host.describe("describe_models", ModelCard)  # type: ignore[type-abstract]
    cards = (card for answer in described.values() for card in (answer if isinstance(answer, tuple) else (answer,)))
    return tuple(sorted(cards, key=lambda card: card.name))


def resolve(
    host: PluginHost, name: str, *, revision: str | None = None, offline: bool = False, hub: str = "huggingface"
) -> Resolved:
    """Find the directory that ``name`` stands for, downloading it if it is a hub id.

    A directory of that name always wins, then a known name, then a hub id such as
    ``THUDM/chatglm-6b``.

    Raises:
        ModelNotFoundError: nothing answers to the name.
        HubError: the download failed, or the network may not be used.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return Resolved(name, directory.resolve())
    if directory.is_file():
        raise ModelNotFoundError(f"{name} is a file; pass the directory that holds the model's files")
    cards = known_models(host)
    for card in cards:
        if name == card.name or name in card.aliases:
            return _resolve_card(name, card, revision, offline, hub)
    if _HUB_ID.fullmatch(name):
        return Resolved(name, _download(name, revision, offline, hub))
    raise ModelNotFoundError(_unknown(name, cards))


def _resolve_card(name: str, card: ModelCard, revision: str | None, offline: bool, hub: str) -> Resolved:
    if card.path is not None:
        return Resolved(name, card.path)
    repository = card.modelscope_id if hub == "modelscope" else card.hub_id
    if repository is not None:
        return Resolved(name, _download(repository, revision, offline, hub))
    if card.hub_id or card.modelscope_id:
        raise ModelNotFoundError(f"model {name!r} is not on {hub}; choose the other hub with --hub")
    return Resolved(name, None)


def _download(repository: str, revision: str | None, offline: bool, hub: str) -> Path:
    from .hub import download  # here, because the hub's client is an optional dependency

    return download(repository, revision=revision, offline=offline, hub=hub)


def _unknown(name: str, cards: tuple[ModelCard, ...]) -> str:
    names = [card.name for card in cards]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if name in _KNOWN_PACKAGES:
        hint = f" Install it with: pip install {_KNOWN_PACKAGES[name]}."
    return (
        f"model {name!r} is no directory, no known name and no hub id.{hint} "
        f"Known names: {', '.join(names) or 'none'}. Pass a directory, one of these, or an id such as "
        "THUDM/chatglm-6b."
    )
