"""What both hubs share: which files are wanted, importing a client, and wording its errors."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import HubError

DATA_FILES = ("*.json", "*.model", "*.safetensors", "*.bin", "*.txt", "*.tiktoken", "*.jinja")
OFFLINE_HINT = "Download it on a machine with network, or pass --model a local directory."


def import_client(package: str, extra: str, submodules: Iterable[str], repository: str) -> Any:
    """Import a hub's client; which type checkers must not see, as it is optional."""
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


def superseded(names: Iterable[str]) -> list[str] | None:
    """The torch files of a model that also offers safetensors."""
    return ["*.bin"] if any(name.endswith(".safetensors") for name in names) else None


def is_of_files(error: Exception) -> bool:
    """Whether the system refused a file; both clients also derive errors of theirs from ``OSError``."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)


def root_of(error: BaseException) -> BaseException:
    """Where it began: the clients wrap a refused connection three times, in ever longer sentences."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def reason_of(error: BaseException) -> str:
    """The first line of a message; the clients' further lines are advice for programmers."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300].rstrip(". ")


def not_writable(where: str, error: Exception, variable: str, now: Path | None) -> str:
    return (
        f"{where} could not be written to the cache: {error}. Make the folder writable and large enough, "
        f"or name another in {variable}" + (f" (now {now})." if now else ".")
    )
