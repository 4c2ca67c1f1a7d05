"""Models from Hugging Face's hub, or a mirror that ``HF_ENDPOINT`` names."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from glm_core.errors import HubError
from glm_hub.model_files import FETCHED, NEEDED, SAFETENSORS, TORCH, list_unwanted_patterns

from ._common import (
    OFFLINE_HINT,
    find_root_cause,
    format_cache_error,
    format_reason,
    import_client,
    is_file_error,
)
from ._large_files import TIMEOUT_SECONDS, fetch_large_files, is_outage, select_large_files
from .checksums import GIT_SHA1, SHA256, KnownFile, is_digest, keep_hub_checksums

_HINT = (
    "Check the network, name a mirror in HF_ENDPOINT, try --hub modelscope, "
    "or pass --model a local directory."
)

_log = logging.getLogger("glm")


def download_from_hugging_face(repository: str, revision: str | None, offline: bool) -> Path:
    """Do what `glm_hub.download` says."""
    client = import_client("huggingface_hub", "hub", ("constants", "errors", "utils"), repository)
    offline = offline or client.is_offline_mode()  # also TRANSFORMERS_OFFLINE
    where = f"{repository}" + (f" at revision {revision}" if revision else "")
    try:
        if offline:
            return _from_cache(client, repository, revision)
        try:
            found = _describe(client, repository, revision)
        except Exception as error:
            if not is_outage(error):
                raise
            with contextlib.suppress(client.errors.LocalEntryNotFoundError):
                folder = _from_cache(client, repository, revision)
                reason = format_reason(error)
                _log.warning("%s: the hub does not answer (%s); using the copy in the cache", where, reason)
                return folder
            raise
        return _fetch(client, repository, revision, found)
    except Exception as error:
        # The client has no common base class; what is not known here is a bug and keeps its traceback.
        message = _explain(client, where, offline, error)
        if message is None:
            raise
        raise HubError(message) from error


def _from_cache(client: Any, repository: str, revision: str | None) -> Path:
    """Return the snapshot in the cache, of whose files the client knows which it should have."""

    def find(unwanted: tuple[str, ...]) -> Path:
        return Path(
            client.snapshot_download(
                repository,
                revision=revision,
                local_files_only=True,
                allow_patterns=list(NEEDED),
                ignore_patterns=list(unwanted),
            )
        )

    folder = find(list_unwanted_patterns([SAFETENSORS.single]))
    return folder if any(folder.rglob(SAFETENSORS.pattern)) else find(list_unwanted_patterns([TORCH.single]))


def _describe(client: Any, repository: str, revision: str | None) -> Any:
    """Return what the hub says of a model: its commit and its files."""
    try:
        found = client.HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
        if not found.sha:
            raise KeyError("sha")
    except (json.JSONDecodeError, KeyError, TypeError) as error:  # a page, or JSON of another make
        raise HubError(
            f"{repository} could not be looked up: what answers at {client.constants.ENDPOINT} is not a hub. "
            "Check HF_ENDPOINT, and whether the network wants you to log in."
        ) from error
    return found


def _fetch(client: Any, repository: str, revision: str | None, found: Any) -> Path:
    _log.info("%s: commit %s", repository, found.sha)
    every = found.siblings or ()
    patterns = {
        "allow_patterns": list(FETCHED),
        "ignore_patterns": list(list_unwanted_patterns(file.rfilename for file in every)),
    }
    wanted = list(client.utils.filter_repo_objects(every, **patterns, key=lambda file: file.rfilename))
    if not wanted:
        raise HubError(f"{repository} holds none of a model's files; see its page for the right name")
    folder = Path(client.constants.HF_HUB_CACHE).resolve() / f"models--{repository.replace('/', '--')}"
    snapshot: Path = folder / "snapshots" / found.sha
    if not all((snapshot / file.rfilename).exists() for file in wanted):
        if _has_symlinks(client):
            fetch_large_files(client, repository, found.sha, folder, select_large_files(wanted))
        client.snapshot_download(repository, revision=found.sha, **patterns)
    # Also of files that were there already, because another program may have fetched them.
    keep_hub_checksums(snapshot, f"{repository} at {found.sha}", dict(map(_read_checksum, wanted)))
    _note_commit(folder, revision or "main", found.sha)
    return snapshot


def _read_checksum(file: Any) -> tuple[str, KnownFile]:
    """Return a file's name and what the hub says of its content."""
    size = file.size if type(file.size) is int and file.size >= 0 else None
    if file.lfs is not None and is_digest(SHA256, file.lfs.sha256):
        return file.rfilename, KnownFile(size, SHA256, file.lfs.sha256)
    if file.lfs is None and is_digest(GIT_SHA1, file.blob_id):  # of a large file it is the pointer's
        return file.rfilename, KnownFile(size, GIT_SHA1, file.blob_id)
    return file.rfilename, KnownFile(size)  # a mirror need not know them


def _has_symlinks(client: Any) -> bool:
    """Return whether the cache can name one file twice; if not, the client would copy what we put there."""
    supported: bool = importlib.import_module(f"{client.__name__}.file_download").are_symlinks_supported()
    return supported


def _note_commit(folder: Path, revision: str, commit: str) -> None:
    """Write down which commit a branch or tag stood for, so that it is found offline.

    The client does it only where it is asked for the branch, and then before the files are there.
    """
    reference = folder / "refs" / revision
    with contextlib.suppress(OSError):  # a cache that is shared and read-only serves as well
        if revision == commit or (reference.exists() and reference.read_text() == commit):
            return
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
        temporary.write_text(commit)
        temporary.replace(reference)


def _explain(client: Any, where: str, offline: bool, error: Exception) -> str | None:
    """Return the sentence for an error of the client; ``None`` for what is none of its errors."""
    errors = client.errors
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, HubError):
        return str(error)
    if isinstance(error, errors.HFValidationError):
        return f"{where} is no id that the hub accepts: {format_reason(error)}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{where} is given only to those who accepted its terms: accept them on its page, "
            "then log in with: hf auth login"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} does not exist; see the model's page for its branches and tags"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{where} does not exist on the hub, or is private and you are not logged in (hf auth login)"
    if status in (401, 403):
        reason = format_reason(error)
        return f"{where} was refused ({reason}). Log in again with hf auth login, or check HF_TOKEN."
    if isinstance(error, errors.LocalEntryNotFoundError) and offline:
        return f"{where} is not in the cache, or only in part, and offline mode is on. {OFFLINE_HINT}"
    if not status and is_file_error(error) and not isinstance(error, errors.LocalEntryNotFoundError):
        return format_cache_error(where, error, "HF_HOME", Path(client.constants.HF_HUB_CACHE))
    if isinstance(error, OSError) or is_outage(error):
        return f"{where} could not be downloaded: {format_reason(find_root_cause(error))}. {_HINT}"
    return None
