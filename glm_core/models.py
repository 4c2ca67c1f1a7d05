"""From what the user calls a model to what a runtime can open."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from ._candidates import load_declared
from ._conflicts import OWNERS, Cards, claimants
from .config import HUBS, expand
from .errors import AdapterError, HubError, ModelNotFoundError
from .plugins import PluginHost
from .records import ModelCard, ModelSource

# As the hub itself checks them, so that a mistyped path is told apart before any download starts.
_PART = r"[A-Za-z0-9_](?:(?!--|\.\.)[A-Za-z0-9_.-])*(?<![.-])"
_HUB_ID = re.compile(f"{_PART}/{_PART}")
_ADAPTER_NAME = re.compile(r"\w[\w.-]{0,63}")
HUB_ENTRY_POINTS = "glm.hubs"


def known_models(host: PluginHost, described: Cards | None = None) -> tuple[ModelCard, ...]:
    """Return every model that a plugin names, sorted by name; one of each name; ask what is not given."""
    described = host.describe_many("describe_models", ModelCard) if described is None else described
    cards = {(card.name, plugin): card for plugin, of_it in described.items() for card in of_it}
    claimed = claimants(host, "model", cards)
    return tuple(cards[name, plugins[0]] for name, plugins in sorted(claimed.items()))


def resolve(
    host: PluginHost,
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    hub: str = "huggingface",
) -> ModelSource:
    """Find the directory or file that ``name`` stands for, downloading it if it is a hub id.

    A directory of that name wins, then a known name, then a file (some formats are one file; whether it
    is one, a runtime decides), then a hub id such as ``THUDM/chatglm-6b``.
    ``NAME:ANYTHING`` is handed on as it is where ``NAME`` is a known model without files, such as
    one behind a server.

    Raises:
        ModelNotFoundError: nothing answers to the name.
        HubError: the download failed, or the network may not be used.
    """
    if not name.strip():
        raise ModelNotFoundError("the model's name is empty; pass a directory, a known name or a hub id")
    path = expand(name)
    try:
        is_directory, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name too long for a path, a folder that may not be read
        raise ModelNotFoundError(f"model {name!r} cannot be looked up: {error}") from error
    cards = known_models(host)
    matching = [card for card in cards if name == card.name or name in card.aliases]
    card = next((card for card in matching if name == card.name), next(iter(matching), None))
    # A folder that merely happens to be called like an installed model, such as demo, does not hide it.
    is_other = card is not None and card.path is not None and not (path / "config.json").exists()
    if is_directory and not is_other:
        return ModelSource(name, path.resolve())
    if card is not None:
        return _resolve_card(name, card, revision, offline, hub)
    if _is_prefixed(name, cards):
        return ModelSource(name, None)
    if is_file:
        return ModelSource(name, path.resolve())
    if _HUB_ID.fullmatch(name):
        return ModelSource(name, _download(name, revision, offline, hub))
    raise ModelNotFoundError(_unknown(name, cards) + host.unused())


def _is_prefixed(name: str, cards: tuple[ModelCard, ...]) -> bool:
    prefix, separator, rest = name.partition(":")
    return bool(separator and rest) and any(
        card.name == prefix and (card.path, card.hub_id, card.modelscope_id) == (None, None, None)
        for card in cards
    )


def adapter_directory(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the directory of an adapter, once its name and its place are found usable.

    Raises:
        AdapterError: the name cannot be used in a request (``MODEL:NAME``), or there is no such directory.
    """
    if not _ADAPTER_NAME.fullmatch(name):
        raise AdapterError(
            f"adapter name {name!r} cannot be used; choose letters, digits, '.', '_' and '-', 64 at most"
        )
    directory = expand(path)
    if not directory.is_dir():
        raise AdapterError(
            f"adapter {name!r}: {directory} is no directory; pass the one that holds its files"
        )
    return directory


def _resolve_card(name: str, card: ModelCard, revision: str | None, offline: bool, hub: str) -> ModelSource:
    if card.path is not None:
        if not card.path.is_dir():
            raise ModelNotFoundError(
                f"the files of model {name!r} are missing: install its package again ({card.path})"
            )
        return ModelSource(name, card.path)
    repository = card.modelscope_id if hub == "modelscope" else card.hub_id
    if repository is not None:
        return ModelSource(name, _download(repository, revision, offline, hub))
    if card.hub_id or card.modelscope_id:
        other = next(known for known in HUBS if known != hub)
        raise ModelNotFoundError(f"model {name!r} is not on {hub}; choose the other hub with --hub {other}")
    return ModelSource(name, None)


def _download(repository: str, revision: str | None, offline: bool, hub: str) -> Path:
    # Of another distribution, since the hubs' clients are large and a model of one's own needs none.
    package = '"glm-core[hub]"'
    download = load_declared(HUB_ENTRY_POINTS, hub, package)
    if download is None:
        raise HubError(
            f"{repository} must be downloaded, and downloads are not installed: pip install {package}, "
            "or pass --model a local directory."
        )
    folder: Path = download(repository, revision=revision, offline=offline, hub=hub)
    return folder


def _unknown(name: str, cards: tuple[ModelCard, ...]) -> str:
    package = OWNERS["model"].get(name)
    if package is not None:
        return f"model {name!r} is not installed: pip install {package}, or pass another with --model"
    names = [card.name for card in cards]
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"model {name!r} is no directory, no known name and no hub id.{hint} "
        f"Known names: {', '.join(names) or 'none'}. Pass a directory, one of these, or an id such as "
        "THUDM/chatglm-6b."
    )
