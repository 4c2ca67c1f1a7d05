"""Checks on single files that need no parser: is this the file, or a stand-in for it?"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from glm_core.errors import CheckpointError

LFS_SIGNATURE = b"version https://git-lfs"
# Of a tokenizer's vocabulary, which libraries read whole; the largest published one has 20 MB.
MAX_VOCABULARY_BYTES = 64 * 2**20
# Below it a hole says nothing: some file systems store a small file of zeros as one.
MIN_SPARSE_BYTES = 16 * 2**20


def check_not_lfs_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer, the text file that a clone without LFS leaves behind.

    Raises:
        CheckpointError: ``path`` is such a pointer, or cannot be read; the message says what to do.
    """
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS_SIGNATURE))
    except OSError as error:
        raise CheckpointError(_describe_unreadable(path, error)) from error
    if head == LFS_SIGNATURE:
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({path.stat().st_size} bytes), not the file itself. "
            "Run `git lfs pull` in that directory, or download the file from the model's page."
        )


def has_file(path: Path) -> bool:
    """Return whether a file that a checkpoint may lack is there; what stands in its place is refused.

    A link that leads nowhere, as an unfinished download leaves it, must not pass for a file that was never
    there: its settings would be left out without a word.

    Raises:
        CheckpointError: there is a directory, a pipe, a device or a link that leads nowhere.
    """
    if not os.path.lexists(path):
        return False
    check_regular_file(path)
    return True


def check_regular_file(path: Path, max_bytes: int | None = None) -> int:
    """Return the size of an ordinary file in bytes; refuse a folder, a pipe, a device, and one too large.

    Raises:
        CheckpointError: it is none, or has more than ``max_bytes``.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise CheckpointError(_describe_unreadable(path, error)) from error
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever, a device never ends
        kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "a pipe, socket or device"
        raise CheckpointError(f"{path} is {kind}, a file is expected; download it again.")
    if max_bytes is not None and facts.st_size > max_bytes:
        raise CheckpointError(
            f"{path} has {facts.st_size:,} bytes, at most {max_bytes:,} are expected; "
            "it is not the file that its name says. Download it again."
        )
    return facts.st_size


def read_small_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file that has its place in memory.

    Raises:
        CheckpointError: it is missing, unreadable, no ordinary file, an LFS pointer, or too large.
    """
    check_not_lfs_pointer(path)
    check_regular_file(path, max_bytes)
    try:
        with path.open("rb") as file:
            return file.read(max_bytes)  # no more, even if it grew since it was looked at
    except OSError as error:
        raise CheckpointError(_describe_unreadable(path, error)) from error


def check_not_sparse(path: Path) -> None:
    """Refuse a large file most of which was never written, such as a download that reserved its room.

    Raises:
        CheckpointError: more than half of it are holes, which read as zeros.
    """
    size = check_regular_file(path)
    if size < MIN_SPARSE_BYTES or not hasattr(os, "SEEK_HOLE"):
        return
    written = _count_written_bytes(path, size)
    if written * 2 < size:
        raise CheckpointError(
            f"{path} is unfinished: of its {size:,} bytes only {written:,} were ever written, the rest are "
            "holes that read as zeros. Download it again."
        )


def _count_written_bytes(path: Path, size: int) -> int:
    written = place = 0
    with path.open("rb") as file:
        while place < size and written * 2 < size:  # no further once enough is known
            try:
                start = os.lseek(file.fileno(), place, os.SEEK_DATA)
                place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            except OSError as error:
                # ENXIO: nothing but a hole follows. Any other: the file system cannot tell, so no blame.
                return written if error.errno == errno.ENXIO else size
            written += place - start
    return written


def _describe_unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, which does not exist; download it again."
    if isinstance(error, FileNotFoundError):
        return f"{path} is missing; download it again."
    return f"{path} cannot be read: {error.strerror or error}; check the file and its permissions."
