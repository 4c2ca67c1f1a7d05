"""What both hubs share: importing a client, and turning its errors into sentences."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glm_core.errors import HubError

OFFLINE_HINT = "Download it on a machine with network, or pass --model a local directory."


def import_client(package: str, extra: str, submodules: Iterable[str], repository: str) -> Any:
    """Import a hub's optional client, in a way that type checkers do not follow."""
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


def is_file_error(error: Exception) -> bool:
    """Return whether the system refused a file; some errors of the clients are ``OSError`` too."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)


def find_root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: the clients wrap a refused connection three times."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def format_reason(error: BaseException) -> str:
    """Return the first line of a message; the clients' further lines are advice for programmers."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300].rstrip(". ")


def format_cache_error(where: str, error: Exception, variable: str, folder: Path | None) -> str:
    """Return the sentence for a cache that cannot be written.

    Args:
        where: the model that was to be written.
        error: of the system.
        variable: of the environment, which names the cache's folder.
        folder: where the cache is now; ``None`` if the client does not tell.
    """
    return (
        f"{where} could not be written to the cache: {error}. Make the folder writable and large enough, "
        f"or name another in {variable}" + (f" (now {folder})." if folder else ".")
    )
