"""Who may ask: keys, hosts and origins."""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers

from .config import ApiConfig, is_loopback
from .errors import ApiError


def check_key(headers: Headers, key: str | None) -> None:
    """Refuse a request without the key, in a time that does not depend on how much of it is right.

    Raises:
        ApiError: 401.
    """
    if key is None:
        return
    given = headers.getlist("authorization")
    kind, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if kind.lower() == "bearer" and hmac.compare_digest(value.strip().encode("latin-1"), key.encode()):
        return
    raise ApiError(
        401,
        "the API key is missing or wrong; send the header Authorization: Bearer KEY",
        "invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def check_site(headers: Headers, config: ApiConfig) -> None:
    """Refuse what a web page of another site makes a browser send.

    A browser on this machine reaches a server on loopback, so any page could use the model: by its
    own name for 127.0.0.1 (seen in ``Host``), or across sites (seen in ``Origin``). With a key the
    page would have to know it, and nothing more needs checking.

    Raises:
        ApiError: 403.
    """
    if config.api_key is not None:
        return
    host = headers.get("host", "")
    if config.on_loopback and not _is_ours(host, config):
        raise ApiError(
            403,
            f"Host {host[:80]!r} is not this machine's loopback; without an API key only localhost and "
            "127.0.0.1 are served. Behind a proxy, set GLM_API_KEY",
            "host_not_allowed",
        )
    origin = headers.get("origin")
    if origin is None or origin in config.cors_origins:
        return
    site = origin.partition("://")[2]
    if site == host or (config.on_loopback and _is_ours(site, config)):
        return
    raise ApiError(
        403,
        f"pages of {origin[:80]!r} may not use this server; --cors-origin allows a site",
        "origin_not_allowed",
    )


def _is_ours(host: str, config: ApiConfig) -> bool:
    name = _without_port(host)
    return is_loopback(name) or name in config.allowed_hosts


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host) if not host.endswith("]") else host
