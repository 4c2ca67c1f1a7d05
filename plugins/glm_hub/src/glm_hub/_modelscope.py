"""Models from ModelScope, whose client resumes by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from glm_core.errors import HubError
from glm_hub.model_files import FETCHED, list_unwanted_patterns

from ._common import (
    OFFLINE_HINT,
    find_root_cause,
    format_cache_error,
    format_reason,
    import_client,
    is_file_error,
)
from .checksums import SHA256, KnownFile, is_digest, keep_hub_checksums

_HINT = "Check the network and MODELSCOPE_ENDPOINT, try --hub huggingface, or pass --model a local directory."


def download_from_modelscope(repository: str, revision: str | None, offline: bool) -> Path:
    """Do what `glm_hub.download` says."""
    # Not the package `modelscope`, which imports torch for the same function.
    client = import_client("modelscope_hub", "modelscope", ("errors",), repository)
    where = f"{repository} on ModelScope" + (f" at revision {revision}" if revision else "")
    try:
        api = client.HubApi()
        if offline:
            return Path(api.download_repo(repository, "model", revision=revision, local_files_only=True))
        files = api.list_repo_files(repository, "model", revision=revision)
        folder = Path(
            api.download_repo(
                repository,
                "model",
                revision=revision,
                allow_patterns=list(FETCHED),
                ignore_patterns=list(list_unwanted_patterns(file.path for file in files)),
            )
        )
        keep_hub_checksums(folder, where, dict(_read_checksums(folder, files)))
        return folder
    except (client.errors.HubError, OSError) as error:
        raise HubError(_explain(client, where, error)) from error


def _read_checksums(folder: Path, files: Iterable[Any]) -> Iterator[tuple[str, KnownFile]]:
    """Yield the files that were fetched, each with what the hub says of its content."""
    for file in files:
        if (folder / file.path).is_file():
            size = file.size if type(file.size) is int and file.size > 0 else None  # 0 = it does not say
            known = is_digest(SHA256, file.sha256)
            yield file.path, KnownFile(size, SHA256, file.sha256) if known else KnownFile(size)


def _explain(client: Any, where: str, error: Exception) -> str:
    errors = client.errors
    if isinstance(error, errors.FileDownloadError) and error.failed_files:
        error = next(iter(error.failed_files.values()))  # the first says what the others say
    if isinstance(error, errors.CacheNotFound):
        return f"{where} is not in the cache and offline mode is on. {OFFLINE_HINT}"
    if isinstance(error, errors.NotExistError):
        return f"{where} does not exist; see the model's page for its name, branches and tags"
    if isinstance(error, (errors.AuthenticationError, errors.PermissionDeniedError)):
        return (
            f"{where} is private, or given only to those who accepted its terms: accept them on its page, "
            "then log in with: ms-hub login"
        )
    if isinstance(error, errors.CacheError) or is_file_error(error):
        return format_cache_error(where, error, "MODELSCOPE_CACHE", None)
    if isinstance(error, ValueError) and not isinstance(error, errors.HubError):  # a page, no JSON
        return (
            f"{where} could not be looked up: what answers is not ModelScope. "
            "Check MODELSCOPE_ENDPOINT, and whether the network wants you to log in."
        )
    return f"{where} could not be downloaded: {format_reason(find_root_cause(error))}. {_HINT}"
