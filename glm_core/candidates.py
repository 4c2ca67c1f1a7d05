"""Find what installed packages declare: plugins, without importing any, and single functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .errors import PluginError
from .isolation import format_error

ENTRY_POINT_GROUP = "glm.plugins"


@dataclass(frozen=True)
class Candidate:
    """A plugin that may be loaded: its name, its package, and how to get its module."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]


def list_candidates() -> list[Candidate]:
    """Return every plugin that the installed packages declare, sorted by name; nothing is imported."""
    try:
        found = [
            _make_candidate(point, point.dist) for point in metadata.entry_points(group=ENTRY_POINT_GROUP)
        ]
    except Exception:
        # Anything: one malformed entry_points.txt, of whatever package, makes importlib.metadata
        # refuse all of them, and the parser has no error class of its own.
        found = list(_read_one_by_one())
    return sorted(found, key=lambda candidate: (candidate.name, candidate.distribution))


def _read_one_by_one() -> Iterator[Candidate]:
    """Yield candidates package by package; one that cannot be read is one that cannot be loaded."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name, version = _read_identity(distribution)
        if name in seen:  # an earlier folder of sys.path wins, as it does for imports
            continue
        seen.add(name)
        try:
            points = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
        except Exception as error:  # see above
            if ENTRY_POINT_GROUP in (distribution.read_text("entry_points.txt") or ""):
                yield Candidate(name, name, version, functools.partial(_refuse, error))
            continue
        yield from (_make_candidate(point, distribution) for point in points)


def _make_candidate(point: metadata.EntryPoint, distribution: metadata.Distribution | None) -> Candidate:
    return Candidate(point.name, *_read_identity(distribution), load=point.load)


def _read_identity(distribution: metadata.Distribution | None) -> tuple[str, str]:
    """Return name and version of a package, also if its metadata is damaged."""
    try:
        assert distribution is not None
        return distribution.metadata["Name"] or "unknown", distribution.metadata["Version"] or "unknown"
    except Exception:  # differs between Python versions: TypeError, KeyError, UnicodeDecodeError
        return "unknown", "unknown"


def _refuse(error: Exception) -> object:
    raise PluginError(f"its entry_points.txt is malformed ({error})")


def load_declared(group: str, name: str, package: str) -> Any:
    """Return what an installed package declares under a name in an entry-point group; ``None`` if none does.

    Raises:
        PluginError: it is declared, and cannot be imported; says to install ``package`` again.
    """
    for point in metadata.entry_points(group=group, name=name):
        try:
            return point.load()
        except Exception as error:  # whatever is wrong with the installed package
            raise PluginError(
                f"{name} is installed but broken ({format_error(error)}); "
                f"install it again: pip install --force-reinstall {package}"
            ) from error
    return None
