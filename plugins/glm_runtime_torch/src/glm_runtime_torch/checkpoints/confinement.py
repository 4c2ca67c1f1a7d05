"""Reading files that are really inside a folder, whatever links say and whoever changes them meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from glm_core.errors import AdapterError, GlmError, OutsideFolderError

# Where Linux shows the files that this process has open; elsewhere there is no such place.
_OPEN_FILES = Path("/proc/self/fd")


@contextlib.contextmanager
def pin_file(path: Path, inside: Path | None) -> Iterator[Path]:
    """Yield a path by which a file is read, once it is known to be inside a folder.

    A check by name alone could be raced: a link may be put in the file's place between the check and the
    reading. So the file is opened first, then it is asked where the open file really is, and what is
    yielded names that very file. Where the system cannot tell (not Linux), the resolved path is yielded.

    Args:
        path: as it is named in messages; links in it are followed.
        inside: the folder; ``None`` allows any file, and ``path`` itself is yielded.

    Raises:
        OutsideFolderError: the file is elsewhere.
        AdapterError: it is no regular file, such as a pipe, or cannot be opened.
    """
    if inside is None:
        yield path
        return
    real = check_inside(path, inside)
    try:
        # O_NONBLOCK, because opening a pipe would wait for somebody to write into it.
        descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AdapterError(f"{path} is no regular file; copy the adapter again")
        pinned = _OPEN_FILES / str(descriptor)
        if pinned.exists():
            # Asked of the open file, so a folder on the way that was exchanged for a link is noticed too.
            _refuse_outside(Path(os.readlink(pinned)), path, inside)
            real = pinned
        yield real
    except GlmError as error:
        if str(real) not in str(error):
            raise
        # The user knows the file by the name that he gave, not by the number of an open file.
        raise type(error)(str(error).replace(str(real), str(path))) from error
    finally:
        os.close(descriptor)


def check_inside(path: Path, inside: Path) -> Path:
    """Return where a file or directory really is, with every link followed.

    Raises:
        OutsideFolderError: that is not inside ``inside``.
        AdapterError: it does not exist, or its links lead nowhere.
    """
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: how Python 3.11 and 3.12 tell a ring of links
        raise AdapterError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    _refuse_outside(real, path, inside)
    return real


def _refuse_outside(real: Path, path: Path, inside: Path) -> None:
    if not real.is_relative_to(os.path.realpath(inside)):
        raise OutsideFolderError(
            f"{path} leads out of the folder that adapters may be loaded from; copy the file into the folder"
        )
