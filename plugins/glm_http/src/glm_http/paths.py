"""One path for the several ways in which clients write it."""

from __future__ import annotations

import re

# A request line may name the whole address (RFC 9112, 3.2.2); a server has to take that.
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)
_SLASHES = re.compile(r"/{2,}")


def normalize_path(path: str, root_path: str = "") -> str:
    """Return the path of a route, with single slashes and none at its end.

    Args:
        path: as the request line has it, decoded.
        root_path: the path under which a proxy serves this, which is taken away if it is there.
    """
    path = _SLASHES.sub("/", _ORIGIN.sub("", path, count=1))
    if root_path and (path == root_path or path.startswith(f"{root_path}/")):
        path = path[len(root_path) :]
    return path.rstrip("/") or "/"
