"""The one folder that clients may have adapters loaded from, and nothing outside it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ApiError, build_invalid_error

# An adapter is a few files, a training job some hundred; far more is the wrong directory, and looking at each
# of a million files would take minutes.
MAX_ENTRIES = 20_000


def resolve_directory(path: str, folder: Path) -> Path:
    """Return the directory that a client means, with every link followed.

    Whatever lies outside is refused with the same words, whether it exists or not. So is a directory that
    anywhere below holds a link to the outside: which of its files are read is for the runtime to decide,
    and one in a directory below counts as much as one in the directory itself. The runtime checks again
    what it really opens (``inside`` of `ChatModel.add_adapter`), since links may change in between.

    Args:
        path: relative to the folder, or absolute.
        folder: of this server's adapters.

    Raises:
        ApiError: it is not inside the folder, no directory, or holds too many files.
    """
    base = folder.resolve()
    try:
        wanted = (base / path).resolve()
        is_inside = wanted != base and wanted.is_relative_to(base)
        is_directory = is_inside and wanted.is_dir()
        leads_out = is_directory and _has_link_out(wanted, base)
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a ring of links, no permission
        is_inside, is_directory, leads_out = True, False, False
    if not is_inside or leads_out:
        raise build_outside_error(path)
    if not is_directory:
        raise build_invalid_error(
            f"path {path[:80]!r} is not a directory in this server's adapters folder",
            "path",
            "adapter_refused",
        )
    return wanted


def hide_folder(message: str, folder: Path) -> str:
    """Return a message about files without the folder's place on this machine."""
    for base in (str(folder.resolve()), str(folder)):
        message = message.replace(f"{base}/", "").replace(f"{base}\\", "")
    return message


def build_outside_error(path: str) -> ApiError:
    """Return the refusal of a path that leads out of the folder."""
    return ApiError(
        403,
        f"path {path[:80]!r} is outside this server's adapters folder; pass a path relative to it, "
        "without links that lead out",
        "path_not_allowed",
        param="path",
    )


def _has_link_out(directory: Path, base: Path) -> bool:
    """Return whether a link in a directory or below leads out of ``base``.

    Raises:
        ApiError: there are more than `MAX_ENTRIES` files.
    """
    waiting, seen, count = [directory], {directory}, 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                count += 1
                if count > MAX_ENTRIES:
                    raise build_invalid_error(
                        f"the directory holds more than {MAX_ENTRIES:,} files; pass that of one adapter",
                        "path",
                        "adapter_refused",
                    )
                real = Path(entry.path)
                if entry.is_symlink():
                    real = real.resolve()
                    if not real.is_relative_to(base):
                        return True
                # Links to directories inside are followed, each directory once, so a ring of links ends.
                if real not in seen and real.is_dir():
                    seen.add(real)
                    waiting.append(real)
    return False
