"""Fill templates in and write them to a directory."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template

from glm_core import __version__
from glm_core.errors import ConfigError

from .names import PackageNames

_SUFFIX = ".tmpl"
_MAJOR, _MINOR = (int(part) for part in __version__.split(".")[:2])
_THIS_RELEASE = f">={_MAJOR}.{_MINOR},<{_MAJOR}.{_MINOR + 1}"  # this minor release or a later fix of it
_DEPENDENCIES = {"backend": (f"glm-runtime-torch{_THIS_RELEASE}", "torch>=2.6")}


def write_package(names: PackageNames, directory: Path) -> tuple[Path, ...]:
    """Write a new package.

    Args:
        names: its names.
        directory: where; created if it is not there, and refused if it holds anything.

    Returns:
        The files that were written, sorted.

    Raises:
        ConfigError: the directory is not empty or cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} exists already and is not an empty directory; choose another with --directory"
        )
    files = {directory / path: text for path, text in _fill_in(names)}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error}") from error
    return tuple(sorted(files))


def _fill_in(names: PackageNames) -> Iterator[tuple[Path, str]]:
    """Yield path and text of every file of the package."""
    needed = [f"glm-core{_THIS_RELEASE}", *_DEPENDENCIES.get(names.kind, ())]
    requirements = ", ".join(f'"{name}"' for name in needed)
    values = {**vars(names), "release": _THIS_RELEASE, "requirements": requirements}
    root = resources.files(__package__) / "templates"
    for folder in ("common", names.kind):
        for path, template in _list_templates(root / folder, PurePosixPath()):
            parts = [part.replace("__package__", names.package) for part in path.parts]
            parts = [f".{part.removeprefix('dot_')}" if part.startswith("dot_") else part for part in parts]
            text = Template(template.read_text("utf-8")).substitute(values)
            yield Path(*parts), text


def _list_templates(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _list_templates(entry, path / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield path / entry.name.removesuffix(_SUFFIX), entry
