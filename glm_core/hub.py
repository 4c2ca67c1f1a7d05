"""Downloading checkpoints: Hugging Face's hub or a mirror of it, and ModelScope.

Resuming, locking and progress bars are the clients' own. Only data files are fetched: no Python
code ever, and safetensors alone where a model offers both forms of weights.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .config import hub_cache
from .errors import HubError

_DATA_FILES = ("*.json", "*.model", "*.safetensors", "*.bin", "*.txt", "*.tiktoken", "*.jinja")
_OFFLINE_HINT = "Download it on a machine with network, or pass --model a local directory."

_log = logging.getLogger("glm")


def download(repository: str, *, revision: str | None, offline: bool, hub: str) -> Path:
    """Fetch a model's data files, or find them in the cache.

    Args:
        repository: id such as ``THUDM/chatglm-6b``.
        revision: branch, tag or commit.
        offline: only look into the cache.
        hub: ``"huggingface"`` (``HF_ENDPOINT`` names a mirror) or ``"modelscope"``.

    Returns:
        A directory in the hub client's cache.

    Raises:
        HubError: not in the cache while offline, no network, no such model or revision, no
            permission, or the cache cannot be written.
    """
    if hub == "modelscope":
        return _from_modelscope(repository, revision, offline)
    return _from_hugging_face(repository, revision, offline)


def _from_hugging_face(repository: str, revision: str | None, offline: bool) -> Path:
    try:
        import huggingface_hub as client
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise HubError(
            f"{repository} must be downloaded, and the hub's client is not installed: "
            'pip install "glm-core[hub]", or pass --model a local directory.'
        ) from error
    where = f"{repository}" + (f" at revision {revision}" if revision else "")
    try:
        if offline:
            return Path(client.snapshot_download(repository, revision=revision, local_files_only=True))
        found = client.HfApi().model_info(repository, revision=revision)
        names = [sibling.rfilename for sibling in found.siblings or ()]
        _log.info("%s: commit %s", repository, found.sha)
        return Path(
            client.snapshot_download(
                repository,
                revision=found.sha,
                allow_patterns=list(_DATA_FILES),
                ignore_patterns=_superseded(names),
            )
        )
    except errors.GatedRepoError as error:
        raise HubError(f"{where} needs you to accept its terms on its page and to log in first") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{where} does not exist; see the model's page for its branches and tags") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{where} does not exist on the hub, or is private and you are not logged in") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if offline:
            raise HubError(f"{where} is not in the cache and offline mode is on. {_OFFLINE_HINT}") from error
        raise HubError(_no_network(where, error)) from error
    except (errors.HfHubHTTPError, ConnectionError) as error:
        raise HubError(_no_network(where, error)) from error
    except OSError as error:
        raise HubError(_not_writable(where, error)) from error
    except Exception as error:
        # The client's transport library differs between versions and raises its own classes
        # (httpx.ConnectError, httpx.TimeoutException) through; all that is left here is that.
        if type(error).__module__.startswith("httpx"):
            raise HubError(_no_network(where, error)) from error
        raise


def _superseded(names: list[str]) -> list[str] | None:
    """The torch files of a model that also offers safetensors."""
    return ["*.bin"] if any(name.endswith(".safetensors") for name in names) else None


def _from_modelscope(repository: str, revision: str | None, offline: bool) -> Path:
    try:
        from modelscope.hub.snapshot_download import snapshot_download  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise HubError(
            f"{repository} must be downloaded from ModelScope, whose client is not installed: "
            'pip install "glm-core[modelscope]", or pass --model a local directory.'
        ) from error
    where = f"{repository} on ModelScope" + (f" at revision {revision}" if revision else "")
    arguments: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        return Path(
            snapshot_download(
                repository, allow_patterns=list(_DATA_FILES), local_files_only=offline, **arguments
            )
        )
    except ValueError as error:  # the client's word for "not in the cache"
        raise HubError(f"{where} is not in the cache and offline mode is on. {_OFFLINE_HINT}") from error
    except PermissionError as error:
        raise HubError(_not_writable(where, error)) from error
    except Exception as error:
        # The client has no common base class; everything it raises here is about the download.
        raise HubError(_no_network(where, error)) from error


def _no_network(where: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"{where} could not be downloaded: {reason}. Check the network, name a mirror in HF_ENDPOINT, "
        f"try --hub modelscope, or pass --model a local directory."
    )


def _not_writable(where: str, error: OSError) -> str:
    return (
        f"{where} could not be written to the cache: {error}. "
        f"Make the folder writable and large enough, or name another in HF_HOME (now {hub_cache()})."
    )
