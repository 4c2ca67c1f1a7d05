"""Sizes and hashes of a model's files: written down once, and compared with the files later.

A list comes from whoever made the files, since nobody else can say how they should be:

- ``glm_checksums.json`` in the directory, which ``glm quantize`` and training write (`write_checksums`);
- of a download, what the hub said, kept beside the snapshot in the hub client's cache (`keep_hub_checksums`);
- of a download by another program, the names of the files that Hugging Face's cache links to, which are the
  files' hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from glm_core.errors import CheckpointError

from .model_files import CHECKSUMS, WEIGHT_FORMS, list_model_files

VERSION = 1
SHA256, GIT_SHA1 = "sha256", "git_sha1"  # the second is how git, and so the hub, names a small file's content
_PATTERNS = {SHA256: re.compile(r"[0-9a-f]{64}"), GIT_SHA1: re.compile(r"[0-9a-f]{40}")}
_PIECE_BYTES = 2**20
_MAX_LIST_BYTES = 2**24  # a list of 100,000 files; what is larger is something else
_MAX_NAME = 255  # characters of one part of a path; longer ones no file system takes


@dataclass(frozen=True)
class KnownFile:
    """What is known of a file beforehand.

    Attributes:
        size: bytes; ``None`` = unknown.
        algorithm: `SHA256` or `GIT_SHA1`; empty where there is no hash.
        digest: hexadecimal.
    """

    size: int | None = None
    algorithm: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Checksums:
    """A list of files, and where it comes from."""

    origin: str
    files: Mapping[str, KnownFile]


def hash_file(path: Path, algorithm: str = SHA256) -> str:
    """Return the hash of a file as hexadecimal digits, reading a piece at a time."""
    digest = hashlib.sha256() if algorithm == SHA256 else hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        if algorithm == GIT_SHA1:
            digest.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def write_checksums(
    directory: Path, names: Iterable[str] | None = None, *, known: Mapping[str, str] | None = None
) -> Path:
    """Write ``glm_checksums.json`` for the files of a directory as they are now.

    Args:
        directory: of a model or an adapter.
        names: files to list, with ``/`` in paths; what `list_model_files` finds if left out.
        known: SHA-256 of files that the caller has hashed already.

    Returns:
        The path of the list, which is there whole or not at all.

    Raises:
        OSError: a file cannot be read, or the list not written.
    """
    listed = sorted(list_model_files(directory) if names is None else names)
    files = {
        name: KnownFile(
            (directory / name).stat().st_size, SHA256, (known or {}).get(name) or hash_file(directory / name)
        )
        for name in listed
    }
    path = directory / CHECKSUMS
    _write(path, Checksums("written with the files", files))
    return path


def keep_hub_checksums(snapshot: Path, origin: str, files: Mapping[str, KnownFile]) -> None:
    """Keep beside a downloaded snapshot what the hub said of its files.

    A cache that cannot be written serves all the same, so nothing is raised; then only the names that the
    client gave to its files say their hashes.
    """
    with contextlib.suppress(OSError):
        path = _locate_list(snapshot)
        path.parent.mkdir(exist_ok=True)
        _write(path, Checksums(origin, files))


def find_checksums(directory: Path) -> Checksums | None:
    """Return the list that belongs to a directory, or ``None`` if nobody wrote one.

    Raises:
        CheckpointError: there is one and it is damaged.
    """
    for path in (directory / CHECKSUMS, _locate_list(directory)):
        if path.is_file():
            return _read(path)
        if os.path.lexists(path):  # else nothing would be compared, as if nobody had written a list
            raise CheckpointError(
                f"{path} is no file, a list of checksums is expected; delete it, or write it again with "
                "glm verify --write"
            )
    # Also links that lead nowhere: the file is missing, and the link says that it should be there.
    links = [*directory.iterdir(), *directory.glob("additional_chat_templates/*")]
    files = {
        path.relative_to(directory).as_posix(): known
        for path in links
        if (known := _read_link(path)) is not None
    }
    return Checksums("Hugging Face's cache", files) if files else None


def check_sizes(directory: Path) -> None:
    """Refuse weight files whose size is not the listed one; costs a look at each file's entry only.

    Other files are left to `glm verify`, because people edit a ``generation_config.json``.

    Raises:
        CheckpointError: naming the file and both sizes, or the list is damaged.
    """
    path = next(filter(Path.is_file, (directory / CHECKSUMS, _locate_list(directory))), None)
    checksums = None if path is None else _read(path)
    for name, known in {} if checksums is None else checksums.files.items():
        weights = directory / name
        if not is_weights(name) or known.size is None or not weights.is_file():
            continue  # that a file is missing, whoever opens it says with more knowledge
        if weights.stat().st_size != known.size:
            raise CheckpointError(
                f"{weights} has {weights.stat().st_size:,} bytes, {known.size:,} are expected "
                f"({path}): it is damaged or cut off. Download or copy it again."
            )


def is_weights(name: str) -> bool:
    """Return whether a file holds weights, told by its name."""
    return any(PurePosixPath(name).match(form.pattern) for form in WEIGHT_FORMS)


def is_digest(algorithm: str, text: object) -> bool:
    """Return whether a text can be a hash of an algorithm."""
    return isinstance(text, str) and _PATTERNS[algorithm].fullmatch(text) is not None


def _locate_list(directory: Path) -> Path:
    """Return where the list of a snapshot is: not among its files, which are the hub client's own."""
    if directory.parent.name != "snapshots":
        return directory / CHECKSUMS
    return directory.parent.parent / "glm" / f"{directory.name}.json"


def _read_link(path: Path) -> KnownFile | None:
    """Return the hash that Hugging Face's cache gave a file as its name; ``None`` if it is no such link."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    if blob.parent.name != "blobs":
        return None
    found = next((algorithm for algorithm in _PATTERNS if is_digest(algorithm, blob.name)), None)
    return None if found is None else KnownFile(None, found, blob.name)


def _write(path: Path, checksums: Checksums) -> None:
    files: dict[str, dict[str, Any]] = {}
    for name, known in checksums.files.items():
        entry: dict[str, Any] = {} if known.size is None else {"size": known.size}
        files[name] = entry | ({known.algorithm: known.digest} if known.algorithm else {})
    content = {"version": VERSION, "origin": checksums.origin, "files": files}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: Path) -> Checksums:
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content: Any = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
            raise ValueError("an object with files is expected")
        if content.get("version") != VERSION:
            raise ValueError(f"version {content.get('version')!r:.40}, {VERSION} is expected")
        files = dict(_read_entries(content["files"]))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no list of checksums ({error}); delete it, or write it again with glm verify --write"
        ) from error
    return Checksums(str(content.get("origin", "")), files)


def _is_inside(name: str) -> bool:
    """Return whether a name is a plain path below a directory.

    A list may come from a stranger; it must not make us read, or even look at, other files.
    """
    parts = PurePosixPath(name).parts
    if not parts or {"..", "/"} & {*parts} or {"\\", ":", "\0"} & {*name}:
        return False
    return max(map(len, parts)) <= _MAX_NAME


def _read_entries(entries: Mapping[str, Any]) -> Iterator[tuple[str, KnownFile]]:
    """Yield the files of a list.

    Raises:
        ValueError: one has a name outside the directory, a size or a hash that no file can have.
    """
    for name, entry in entries.items():
        if not _is_inside(name):
            raise ValueError(f"{name!r:.80} is no file of this directory")
        size = entry.get("size") if isinstance(entry, dict) else -1
        if size is not None and (type(size) is not int or size < 0):
            raise ValueError(f"{name!r:.80} has the entry {entry!r:.80}")
        known = KnownFile(size)
        for algorithm in _PATTERNS:
            digest = entry.get(algorithm)
            if digest is None:
                continue
            if not is_digest(algorithm, digest):
                raise ValueError(f"{name!r:.80} has the {algorithm} {digest!r:.80}")
            known = KnownFile(size, algorithm, digest)
            break
        yield name, known
