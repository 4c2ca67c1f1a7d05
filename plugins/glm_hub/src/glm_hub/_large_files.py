"""Fetching the large files of Hugging Face's hub into the client's own cache, resumed where a run stopped.

The client would lose them: 1.31 and 2.4 throw an unfinished file away when a run ends, so that
13 GB over a slow line never arrive; and their second transport, Xet, goes past the mirror that
``HF_ENDPOINT`` names. Everything here uses the client's public calls only.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from glm_core.errors import HubError

from ._common import format_reason

TIMEOUT_SECONDS = 10  # the client's default for the first question is to wait for ever
_CONNECTIONS = 4  # at once, because one alone is slow on long lines that lose packets
_RETRIES = 3  # in a row without one new byte; 1, 2 and 4 seconds apart
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger("glm")


@dataclass(frozen=True)
class LargeFile:
    """A file that the hub keeps by its content; ``sha256`` is also its name in the cache."""

    name: str
    sha256: str
    size: int


def select_large_files(files: Iterable[Any]) -> list[LargeFile]:
    """Return those of a model's files that the hub keeps by their content, each content once."""
    by_content = {
        file.lfs.sha256: LargeFile(file.rfilename, file.lfs.sha256, file.lfs.size)
        for file in files
        # Checked because it becomes the name of a file: a path would be written outside the cache.
        if file.lfs is not None and _SHA256.fullmatch(file.lfs.sha256)
    }
    return list(by_content.values())


def fetch_large_files(
    client: Any, repository: str, commit: str, folder: Path, files: list[LargeFile]
) -> None:
    """Put files into the cache under their hashes, going on where an earlier run was stopped."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / ".locks" / folder.name / "glm.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with client.utils.WeakFileLock(lock):
        missing = [file for file in files if not (blobs / file.sha256).exists()]
        total = sum(file.size for file in missing)
        have = sum(part.stat().st_size for file in missing if (part := _locate_partial(blobs, file)).exists())
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


def _locate_partial(blobs: Path, file: LargeFile) -> Path:
    return blobs / f"{file.sha256}.incomplete"


def _fetch_one(
    client: Any, url: str, file: LargeFile, blobs: Path, progress: Any, stop: threading.Event
) -> None:
    partial = _locate_partial(blobs, file)
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
    client: Any, url: str, file: LargeFile, target: BinaryIO, progress: Any, stop: threading.Event
) -> bool:
    """Receive what is missing, reconnecting as needed; return whether the file is complete."""
    have, failures = target.tell(), 0
    while have < file.size and not stop.is_set():
        before = have
        try:
            # Compressed answers cannot be resumed.
            headers = {**client.utils.build_hf_headers(), "Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            with client.get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
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
            # The transport library differs between versions of the client; `is_outage` knows its errors.
            if not is_outage(error):
                raise
            lost = error
        failures = 1 if have > before else failures + 1
        if failures > _RETRIES:
            raise lost or HubError(f"{file.name} ends after {have:,} of {file.size:,} bytes at {url}")
        if lost is not None and not stop.wait(2 ** (failures - 1)):
            _log.warning("%s: %s; going on from %.1f MB", file.name, format_reason(lost), have / 1e6)
    return not stop.is_set()


def is_outage(error: Exception) -> bool:
    """Return whether the network or the hub is at fault, so that waiting can help."""
    status: int = getattr(getattr(error, "response", None), "status_code", 0)
    return status >= 500 or status == 429 or (not status and type(error).__module__.startswith("httpx"))
