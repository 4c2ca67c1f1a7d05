"""From what the user calls a model to what a runtime can open."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .candidates import load_declared
from .config import HUBS, expand
from .conflicts import OWNERS, Cards, rank_claimants
from .errors import AdapterError, ConfigError, HubError, ModelNotFoundError
from .isolation import format_value
from .plugins import PluginHost
from .records import ModelCard, ModelSource

# As the hub itself checks them, so that a mistyped path is told apart before any download starts.
_PART = r"[A-Za-z0-9_](?:(?!--|\.\.)[A-Za-z0-9_.-])*(?<![.-])"
_HUB_ID = re.compile(f"{_PART}/{_PART}")
# Without ":" and "/", since requests write MODEL:NAME and the API has the name in a path.
_ADAPTER_NAME = re.compile(r"\w[\w.-]{0,63}")
HUB_ENTRY_POINTS = "glm.hubs"
_HUB_PACKAGE = '"glm-core[hub]"'


def list_known_models(host: PluginHost, described: Cards | None = None) -> tuple[ModelCard, ...]:
    """Return every model that a plugin names, sorted by name; one of each name; ask what is not given."""
    described = host.describe_many("describe_models", ModelCard) if described is None else described
    cards = {(card.name, plugin): card for plugin, of_it in described.items() for card in of_it}
    claimed = rank_claimants(host, "model", cards)
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
        is_directory, is_there = path.is_dir(), path.exists()
    except OSError as error:  # a name too long for a path, or a folder above it that may not be searched
        raise _make_unreadable_error(name, error) from error
    cards = list_known_models(host)
    matching = [card for card in cards if name == card.name or name in card.aliases]
    card = next((card for card in matching if name == card.name), next(iter(matching), None))
    # A folder that merely happens to be called like an installed model, such as demo, does not hide it.
    is_other = card is not None and card.path is not None and not os.path.exists(path / "config.json")
    if is_directory and not is_other:
        return _open_local(name, path)
    if card is not None:
        return _resolve_card(name, card, revision, offline, hub)
    if _is_prefixed(name, cards):
        return ModelSource(name, None)
    if is_there and not is_directory:
        return _open_local(name, path)
    if _HUB_ID.fullmatch(name):
        return ModelSource(name, _download(name, revision, offline, hub))
    raise ModelNotFoundError(_explain_unknown_model(name, cards) + host.describe_unused())


def _open_local(name: str, path: Path) -> ModelSource:
    """Return the source of a directory or file, once it is found readable; its runtime reads it later."""
    if not (path.is_dir() or path.is_file()):
        raise ModelNotFoundError(
            f"model {name!r} is a device, a socket or a pipe; pass a directory, a file or a known name"
        )
    try:
        (os.scandir(path) if path.is_dir() else path.open("rb")).close()
    except OSError as error:
        raise _make_unreadable_error(name, error) from error
    return ModelSource(name, path.resolve())


def _make_unreadable_error(name: str, error: OSError) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"model {format_value(name)} cannot be read: {error.strerror}; check the path and its permissions"
    )


def _is_prefixed(name: str, cards: tuple[ModelCard, ...]) -> bool:
    prefix, separator, rest = name.partition(":")
    return bool(separator and rest) and any(
        card.name == prefix and (card.path, card.hub_id, card.modelscope_id) == (None, None, None)
        for card in cards
    )


def find_adapter_directory(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the directory of an adapter, once its name and its place are found usable.

    Raises:
        AdapterError: the name cannot be used in a request (``MODEL:NAME``), or there is no such directory.
    """
    if not isinstance(name, str) or not _ADAPTER_NAME.fullmatch(name):
        allowed = "letters, digits, '.', '_' and '-', 64 at most"
        raise AdapterError(f"adapter name {format_value(name)} cannot be used; choose {allowed}")
    if not isinstance(path, (str, os.PathLike)):
        raise AdapterError(f"adapter {name!r}: expected the path of a directory, got {format_value(path)}")
    directory = expand(path)
    try:
        os.scandir(directory).close()
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        what = "may not be read" if isinstance(error, PermissionError) else "is no directory"
        raise AdapterError(f"adapter {name!r}: {directory} {what}; pass the one with its files") from error
    return directory


def _resolve_card(name: str, card: ModelCard, revision: str | None, offline: bool, hub: str) -> ModelSource:
    if card.path is not None:
        if not card.path.is_dir():
            raise ModelNotFoundError(f"{card.path} is missing; install the package of model {name!r} again")
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
    download = load_declared(HUB_ENTRY_POINTS, hub, _HUB_PACKAGE)
    if download is None:
        raise HubError(
            f"{repository} must be downloaded, and downloads are not installed: pip install {_HUB_PACKAGE}, "
            "or pass --model a local directory."
        )
    folder: Path = download(repository, revision=revision, offline=offline, hub=hub)
    return folder


def verify_files(source: ModelSource) -> Iterator[str]:
    """Compare the files of a model and its adapters with their known hashes; yield a sentence about each.

    Raises:
        CheckpointError: a file is damaged or missing.
        ConfigError: what compares them is not installed.
    """
    verify = load_declared("glm.checks", "files", _HUB_PACKAGE)
    if verify is None:
        raise ConfigError(f"hashes are compared by a package of its own: pip install {_HUB_PACKAGE}")
    for path in (source.path, *source.adapters.values()):
        yield f"{source.name} has no files that could be verified" if path is None else verify(path)


def _explain_unknown_model(name: str, cards: tuple[ModelCard, ...]) -> str:
    package = OWNERS["model"].get(name)
    if package is not None:
        return f"model {name!r} is not installed: pip install {package}, or pass another with --model"
    names = [card.name for card in cards]
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"model {format_value(name)} is no directory, no known name and no hub id.{hint} "
        f"Known names: {', '.join(names) or 'none'}. Pass a directory, one of these, or an id such as "
        "THUDM/chatglm-6b."
    )
