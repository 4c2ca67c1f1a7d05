"""Whether a copy can be written where the user wants it: found out before the work, and without a trace.

Quantising takes minutes to hours, and the copy gets its name in the last second. So whatever could hinder
that is tried beforehand.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from glm_hub.model_files import SAFETENSORS

from glm_core.errors import ConfigError


def locate_partial(destination: Path) -> Path:
    """Return the directory in which a result grows, beside its destination."""
    return destination.with_name(f"{destination.name}.partial")


def check_destination(destination: Path, source: Path) -> None:
    """Refuse a destination at which no new directory can appear.

    Args:
        destination: where the copy shall be; it may be an empty directory.
        source: directory of the original.

    Raises:
        ConfigError: it is taken, a link, a mount point, inside the source, has no usable name, or its folder
            cannot be written to; says which and what to do.
    """
    try:
        _check_name(destination)
        _check_place(destination, source)
        for path in (destination, locate_partial(destination)):
            _check_kind(path)
        if destination.is_dir() and any(destination.iterdir()):
            raise ConfigError(
                f"{destination} exists and is not empty; choose another destination, or delete it first"
            )
        _try_to_write(destination)
    except OSError as error:
        raise ConfigError(
            f"{destination} cannot be written: {error.strerror or error}; choose another destination"
        ) from error


def check_disk(destination: Path, needed: int) -> None:
    """Refuse a job that the disk has no room for; what an earlier run wrote already counts as room.

    Raises:
        ConfigError: naming the bytes needed and the bytes free.
    """
    there = _find_existing_parent(destination)
    written = sum(path.stat().st_size for path in locate_partial(destination).glob(SAFETENSORS.pattern))
    free = shutil.disk_usage(there).free + written
    if needed > free:
        raise ConfigError(
            f"the result needs {needed / 1e9:.2f} GB, {there} has room for {free / 1e9:.2f} GB; "
            "free some space or choose another disk"
        )


def _check_name(destination: Path) -> None:
    if "\0" in str(destination):
        raise ConfigError(f"{str(destination)!r} holds a NUL; choose another destination")
    if destination.name in ("", ".."):  # such as "/" or "..": there is no name that ".partial" could follow
        raise ConfigError(
            f"{destination} names no new directory; choose a destination with a name of its own"
        )


def _check_place(destination: Path, source: Path) -> None:
    # Not `Path.resolve`, which raises RuntimeError for links in a circle.
    there, original = Path(os.path.realpath(destination)), Path(os.path.realpath(source))
    if there == original:
        raise ConfigError(f"{destination} is the source itself; choose another destination")
    if original in there.parents:
        raise ConfigError(f"{destination} is inside the source {source}; choose a destination outside")
    if locate_partial(there) in (original, *original.parents):
        raise ConfigError(
            f"the copy would grow in {locate_partial(destination)}, which holds the source; choose another "
            "destination"
        )


def _check_kind(path: Path) -> None:
    """Refuse what is there and is no plain directory: at the end a directory is renamed to it."""
    if path.is_symlink():
        target = os.readlink(path)
        state = "" if path.exists() else ", which does not exist"
        raise ConfigError(
            f"{path} is a link to {target}{state}; a copy is not written through a link. Pass the place that "
            "it leads to, or delete the link"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; choose a directory that does not exist yet")
    if path.is_mount():
        raise ConfigError(f"{path} is a mount point, which cannot be renamed; choose a directory inside it")


def _try_to_write(destination: Path) -> None:
    """Make a directory in the folder of the destination and rename it there, as the job will at its end.

    Permissions alone do not tell: a file system may be read-only or know no such long names.
    """
    parent = _find_existing_parent(destination)
    if not parent.is_dir():
        raise ConfigError(
            f"{parent} is no directory, so nothing can be written below it; choose another destination"
        )
    with tempfile.TemporaryDirectory(prefix=".glm-", dir=parent) as folder:
        # The longest of the names that will be needed on the way to the result.
        for part in destination.absolute().relative_to(parent).parts:
            Path(folder, f"{part}.partial").mkdir()
    for there in (destination, locate_partial(destination)):
        if there.is_dir():  # an empty one, or one of an earlier run, may belong to somebody else
            with tempfile.TemporaryDirectory(prefix=".glm-", dir=there):
                pass


def _find_existing_parent(destination: Path) -> Path:
    return next(path for path in destination.absolute().parents if os.path.lexists(path))
