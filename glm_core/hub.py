"""Downloading checkpoints: Hugging Face's hub or a mirror of it, and ModelScope.

Only data files are fetched: no Python code ever, and safetensors alone where a model offers both
forms of weights. Locks, small files and the layout of the cache are the clients' own.

The large files of Hugging Face's hub are fetched here, into the client's own cache, because the
client would lose them: 1.31 and 2.4 throw an unfinished file away when a run ends, so that 13 GB
over a slow line never arrive; and their second transport, Xet, goes past the mirror that
``HF_ENDPOINT`` names. ModelScope's client resumes by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import HubError

_DATA_FILES = ("*.json", "*.model", "*.safetensors", "*.bin", "*.txt", "*.tiktoken", "*.jinja")
_CONNECTIONS = 4  # at once; one alone is slow on long lines that lose packets
_TIMEOUT_SECONDS = 10  # the client's default for the first question is to wait for ever
_RETRIES = 3  # in a row without one new byte; 1, 2 and 4 seconds apart
_SHA256 = re.compile(r"[0-9a-f]{64}")

_OFFLINE_HINT = "Download it on a machine with network, or pass --model a local directory."
_HUGGING_FACE_HINT = (
    "Check the network, name a mirror in HF_ENDPOINT, try --hub modelscope, "
    "or pass --model a local directory."
)
_MODELSCOPE_HINT = (
    "Check the network and MODELSCOPE_ENDPOINT, try --hub huggingface, or pass --model a local directory."
)

_log = logging.getLogger("glm")


def download(repository: str, *, revision: str | None, offline: bool, hub: str) -> Path:
    """Fetch a model's data files, or find them in the cache.

    Args:
        repository: id such as ``THUDM/chatglm-6b``.
        revision: branch, tag or commit.
        offline: only look into the cache.
        hub: ``"huggingface"`` (``HF_ENDPOINT`` names a mirror) or ``"modelscope"``
            (``MODELSCOPE_ENDPOINT``).

    Returns:
        A directory in the hub client's cache.

    Raises:
        HubError: not in the cache while offline, no network, no such model or revision, no
            permission, a file damaged on the way, or the cache cannot be written.
    """
    if hub == "modelscope":
        return _from_modelscope(repository, revision, offline)
    return _from_hugging_face(repository, revision, offline)


def _client(package: str, extra: str, submodules: Iterable[str], repository: str) -> Any:
    """Import a hub's client; which type checkers must not see, as it is optional."""
    try:
        client = importlib.import_module(package)
        for name in submodules:
            importlib.import_module(f"{package}.{name}")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            state = "is not installed"
        else:
            state = f"is installed and broken ({error})"
        raise HubError(
            f"{repository} must be downloaded, and the hub's client {package} {state}: "
            f'pip install "glm-core[{extra}]", or pass --model a local directory.'
        ) from error
    return client


# Hugging Face


@dataclass(frozen=True)
class _LargeFile:
    """A file that the hub keeps by its content; ``sha256`` is also its name in the cache."""

    name: str
    sha256: str
    size: int


def _from_hugging_face(repository: str, revision: str | None, offline: bool) -> Path:
    client = _client("huggingface_hub", "hub", ("constants", "errors", "utils"), repository)
    offline = offline or client.is_offline_mode()  # also TRANSFORMERS_OFFLINE
    where = f"{repository}" + (f" at revision {revision}" if revision else "")
    try:
        if offline:
            return _from_cache(client, repository, revision)
        try:
            found = _describe(client, repository, revision)
        except Exception as error:
            if not _is_outage(error):
                raise
            with contextlib.suppress(client.errors.LocalEntryNotFoundError):
                folder = _from_cache(client, repository, revision)
                reason = _reason(error)
                _log.warning("%s: the hub does not answer (%s); using the copy in the cache", where, reason)
                return folder
            raise
        return _fetch(client, repository, revision, found)
    except Exception as error:
        # The client has no common base class; what is not known here is a bug and keeps its traceback.
        message = _explain_hugging_face(client, where, offline, error)
        if message is None:
            raise
        raise HubError(message) from error


def _from_cache(client: Any, repository: str, revision: str | None) -> Path:
    """The snapshot in the cache; the client compares its files with the list of those it should have."""

    def find(unwanted: list[str] | None) -> Path:
        return Path(
            client.snapshot_download(
                repository,
                revision=revision,
                local_files_only=True,
                allow_patterns=list(_DATA_FILES),
                ignore_patterns=unwanted,
            )
        )

    folder = find(["*.bin"])
    return folder if any(folder.rglob("*.safetensors")) else find(None)


def _describe(client: Any, repository: str, revision: str | None) -> Any:
    """Ask the hub for the commit and the files of a model."""
    try:
        found = client.HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS
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
    unwanted = _superseded(file.rfilename for file in every)
    wanted = list(
        client.utils.filter_repo_objects(
            every, allow_patterns=list(_DATA_FILES), ignore_patterns=unwanted, key=lambda file: file.rfilename
        )
    )
    if not wanted:
        raise HubError(f"{repository} holds none of a model's files; see its page for the right name")
    folder = Path(client.constants.HF_HUB_CACHE).resolve() / f"models--{repository.replace('/', '--')}"
    snapshot: Path = folder / "snapshots" / found.sha
    if not all((snapshot / file.rfilename).exists() for file in wanted):
        if _has_symlinks(client):
            _fetch_large(client, repository, found.sha, folder, _large_files(wanted))
        client.snapshot_download(
            repository, revision=found.sha, allow_patterns=list(_DATA_FILES), ignore_patterns=unwanted
        )
    _note_commit(folder, revision or "main", found.sha)
    return snapshot


def _large_files(files: Iterable[Any]) -> list[_LargeFile]:
    by_content = {
        file.lfs.sha256: _LargeFile(file.rfilename, file.lfs.sha256, file.lfs.size)
        for file in files
        # It becomes the name of a file, so it must be what it says.
        if file.lfs is not None and _SHA256.fullmatch(file.lfs.sha256)
    }
    return list(by_content.values())


def _has_symlinks(client: Any) -> bool:
    """Whether the cache can name one file twice; if not, the client would copy what we put there."""
    supported: bool = importlib.import_module(f"{client.__name__}.file_download").are_symlinks_supported()
    return supported


def _note_commit(folder: Path, revision: str, commit: str) -> None:
    """Remember what a branch or tag stood for, so that it is found offline.

    The client would, had it been asked for the branch; but before the files are there.
    """
    reference = folder / "refs" / revision
    with contextlib.suppress(OSError):  # a cache that is shared and read-only serves as well
        if revision == commit or (reference.exists() and reference.read_text() == commit):
            return
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
        temporary.write_text(commit)
        temporary.replace(reference)


def _fetch_large(client: Any, repository: str, commit: str, folder: Path, files: list[_LargeFile]) -> None:
    """Put files into the cache under their hashes, going on where an earlier run was stopped."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / ".locks" / folder.name / "glm.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with client.utils.WeakFileLock(lock):
        missing = [file for file in files if not (blobs / file.sha256).exists()]
        total = sum(file.size for file in missing)
        have = sum(part.stat().st_size for file in missing if (part := _partial(blobs, file)).exists())
        free = shutil.disk_usage(blobs).free
        if total - have > free:
            raise HubError(
                f"{repository} needs {(total - have) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free "
                f"in {blobs}. Make room, or name a folder on another disk in HF_HOME."
            )
        if not missing:
            return
        progress = client.utils.tqdm(
            desc=repository, total=total, initial=have, unit="B", unit_scale=True, disable=None
        )
        stop = threading.Event()
        with progress, ThreadPoolExecutor(_CONNECTIONS) as pool:
            try:
                tasks = [
                    pool.submit(
                        _fetch_one,
                        client,
                        client.hf_hub_url(repository, file.name, revision=commit),
                        file,
                        blobs,
                        progress,
                        stop,
                    )
                    for file in missing
                ]
                for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                    task.result()
            finally:
                stop.set()  # on Ctrl-C and errors: the other threads end at their next chunk


def _partial(blobs: Path, file: _LargeFile) -> Path:
    return blobs / f"{file.sha256}.incomplete"


def _fetch_one(
    client: Any, url: str, file: _LargeFile, blobs: Path, progress: Any, stop: threading.Event
) -> None:
    partial = _partial(blobs, file)
    with partial.open("ab") as target:
        if not _append_missing(client, url, file, target, progress, stop):
            return
    with partial.open("rb") as received:
        digest = hashlib.file_digest(received, "sha256").hexdigest()
    if digest != file.sha256:
        partial.unlink()
        raise HubError(
            f"{file.name} was damaged on its way from {url}: its SHA-256 is {digest}, not {file.sha256}. "
            "Its bytes were thrown away; run this again."
        )
    partial.replace(blobs / file.sha256)


def _append_missing(
    client: Any, url: str, file: _LargeFile, target: BinaryIO, progress: Any, stop: threading.Event
) -> bool:
    """Receive what is missing, over several connections if need be; say whether all is there."""
    have, failures = target.tell(), 0
    while have < file.size and not stop.is_set():
        before = have
        try:
            # Compressed answers cannot be resumed.
            headers = {**client.utils.build_hf_headers(), "Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            with client.get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS) as answer:
                client.utils.hf_raise_for_status(answer)
                if have and answer.status_code != 206:  # the server sends all of it again
                    target.truncate(0)
                    progress.update(-have)
                    have = before = 0
                for chunk in answer.iter_bytes():
                    target.write(chunk)
                    have += len(chunk)
                    progress.update(len(chunk))
                    if stop.is_set():
                        return False
            lost: Exception | None = None
        except Exception as error:
            # The transport library differs between versions of the client; `_is_outage` knows its errors.
            if not _is_outage(error):
                raise
            lost = error
        failures = 1 if have > before else failures + 1
        if failures > _RETRIES:
            raise lost or HubError(f"{file.name} ends after {have:,} of {file.size:,} bytes at {url}")
        if lost is not None and not stop.wait(2 ** (failures - 1)):
            _log.warning("%s: %s; going on from %.1f MB", file.name, _reason(lost), have / 1e6)
    return not stop.is_set()


def _is_outage(error: Exception) -> bool:
    """Whether the network or the hub is at fault, so that waiting can help."""
    status: int = getattr(getattr(error, "response", None), "status_code", 0)
    return status >= 500 or status == 429 or (not status and type(error).__module__.startswith("httpx"))


def _explain_hugging_face(client: Any, where: str, offline: bool, error: Exception) -> str | None:
    """The sentence for what the client raised; ``None`` for what is none of its errors."""
    errors = client.errors
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, HubError):
        return str(error)
    if isinstance(error, errors.HFValidationError):
        return f"{where} is no id that the hub accepts: {_reason(error)}"
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
        return f"{where} was refused ({_reason(error)}). Log in again with hf auth login, or check HF_TOKEN."
    if isinstance(error, errors.LocalEntryNotFoundError) and offline:
        return f"{where} is not in the cache, or only in part, and offline mode is on. {_OFFLINE_HINT}"
    if not status and _is_of_files(error) and not isinstance(error, errors.LocalEntryNotFoundError):
        return _not_writable(where, error, "HF_HOME", Path(client.constants.HF_HUB_CACHE))
    if isinstance(error, OSError) or _is_outage(error):
        return f"{where} could not be downloaded: {_reason(_root(error))}. {_HUGGING_FACE_HINT}"
    return None


# ModelScope


def _from_modelscope(repository: str, revision: str | None, offline: bool) -> Path:
    # Not the package `modelscope`, which imports torch for the same function.
    client = _client("modelscope_hub", "modelscope", ("errors",), repository)
    where = f"{repository} on ModelScope" + (f" at revision {revision}" if revision else "")
    try:
        api = client.HubApi()
        if offline:
            return Path(api.download_repo(repository, "model", revision=revision, local_files_only=True))
        names = [file.path for file in api.list_repo_files(repository, "model", revision=revision)]
        return Path(
            api.download_repo(
                repository,
                "model",
                revision=revision,
                allow_patterns=list(_DATA_FILES),
                ignore_patterns=_superseded(names),
            )
        )
    except (client.errors.HubError, OSError) as error:
        raise HubError(_explain_modelscope(client, where, error)) from error


def _explain_modelscope(client: Any, where: str, error: Exception) -> str:
    errors = client.errors
    if isinstance(error, errors.FileDownloadError) and error.failed_files:
        error = next(iter(error.failed_files.values()))  # the first says what the others say
    if isinstance(error, errors.CacheNotFound):
        return f"{where} is not in the cache and offline mode is on. {_OFFLINE_HINT}"
    if isinstance(error, errors.NotExistError):
        return f"{where} does not exist; see the model's page for its name, branches and tags"
    if isinstance(error, (errors.AuthenticationError, errors.PermissionDeniedError)):
        return (
            f"{where} is private, or given only to those who accepted its terms: accept them on its page, "
            "then log in with: ms-hub login"
        )
    if isinstance(error, errors.CacheError) or _is_of_files(error):
        return _not_writable(where, error, "MODELSCOPE_CACHE", None)
    if isinstance(error, ValueError) and not isinstance(error, errors.HubError):  # a page, no JSON
        return (
            f"{where} could not be looked up: what answers is not ModelScope. "
            "Check MODELSCOPE_ENDPOINT, and whether the network wants you to log in."
        )
    return f"{where} could not be downloaded: {_reason(_root(error))}. {_MODELSCOPE_HINT}"


# Both


def _superseded(names: Iterable[str]) -> list[str] | None:
    """The torch files of a model that also offers safetensors."""
    return ["*.bin"] if any(name.endswith(".safetensors") for name in names) else None


def _is_of_files(error: Exception) -> bool:
    """Whether the system refused a file; both clients also derive errors of theirs from ``OSError``."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)


def _root(error: BaseException) -> BaseException:
    """Where it began: the clients wrap a refused connection three times, in ever longer sentences."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _reason(error: BaseException) -> str:
    """The first line of a message; the clients' further lines are advice for programmers."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300].rstrip(". ")


def _not_writable(where: str, error: Exception, variable: str, now: Path | None) -> str:
    return (
        f"{where} could not be written to the cache: {error}. Make the folder writable and large enough, "
        f"or name another in {variable}" + (f" (now {now})." if now else ".")
    )
