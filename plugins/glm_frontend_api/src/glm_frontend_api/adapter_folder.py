"""The one folder that clients may have adapters loaded from, and nothing outside it."""

from __future__ import annotations

from pathlib import Path

from .errors import ApiError, build_invalid_error


def resolve_directory(path: str, folder: Path) -> Path:
    """Return the directory that a client means, with every link followed.

    Whatever lies outside is refused with the same words, whether it exists or not.

    Args:
        path: relative to the folder, or absolute.
        folder: of this server's adapters.

    Raises:
        ApiError: it is not inside the folder, or no directory.
    """
    base = folder.resolve()
    try:
        wanted = (base / path).resolve()
        inside = wanted != base and wanted.is_relative_to(base)
        exists = inside and wanted.is_dir()
        escaping = exists and any(not entry.resolve().is_relative_to(base) for entry in wanted.iterdir())
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a loop of links, no permission
        inside, exists, escaping = True, False, False
    if not inside or escaping:
        raise _build_outside_error(path)
    if not exists:
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


def _build_outside_error(path: str) -> ApiError:
    return ApiError(
        403,
        f"path {path[:80]!r} is outside this server's adapters folder; pass a path relative to it, "
        "without links that lead out",
        "path_not_allowed",
        param="path",
    )
