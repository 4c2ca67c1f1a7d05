"""Who may ask: keys, hosts and origins. Every check looks at the head of a request only."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from .refusals import RefusalError

# Requests that read. A browser sends them for links as well, which any site may have.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class SiteRules:
    """From which web pages, and under which names, a server may be called.

    Attributes:
        allowed_hosts: names, without port, that requests may be for; ``None`` = any. On loopback that must
            not be any: a foreign site can give 127.0.0.1 a name of its own, and a browser then takes
            this server for a part of that site.
        allowed_origins: origins of other sites whose pages may call, such as ``https://chat.example``.
        trust_other_ports: whether pages of other servers under the same names may call: loopback's own, which
            belong to this machine, and the allowed ones.
        host_advice: what a user can do where a host is refused; the end of the message.
        origin_advice: likewise for an origin.
    """

    allowed_hosts: frozenset[str] | None = None
    allowed_origins: frozenset[str] = frozenset()
    trust_other_ports: bool = False
    host_advice: str = ""
    origin_advice: str = ""


def check_key(headers: Headers, key: str | None) -> None:
    """Refuse a request without the key, in a time that does not depend on how much of it is right.

    Args:
        headers: of the request.
        key: expected as a bearer token; ``None`` = nothing is.

    Raises:
        RefusalError: 401.
    """
    if key is None:
        return
    given = headers.getlist("authorization")
    kind, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if kind.lower() == "bearer" and hmac.compare_digest(value.strip().encode("latin-1"), key.encode()):
        return
    raise RefusalError(
        401,
        "invalid_api_key",
        "the API key is missing or wrong; send the header Authorization: Bearer KEY",
        {"www-authenticate": "Bearer"},
    )


def check_host(headers: Headers, rules: SiteRules) -> None:
    """Refuse a request that calls this server by a name which is not its own.

    Raises:
        RefusalError: 403.
    """
    if rules.allowed_hosts is None:
        return
    host = headers.get("host", "")
    name = _strip_port(host).lower()
    # No site can give itself a loopback address for a name, so these are right wherever they arrive.
    if name in rules.allowed_hosts or is_loopback(name):
        return
    raise RefusalError(
        403, "host_not_allowed", f"this server does not answer to the name {host[:80]!r}{rules.host_advice}"
    )


def check_origin(headers: Headers, method: str, rules: SiteRules) -> None:
    """Refuse what a page of another site makes a browser send.

    Browsers tell where a request comes from: ``Origin`` with all that is not a plain read, and
    ``Sec-Fetch-Site`` with everything. No page can change either. Other programs send neither.

    Raises:
        RefusalError: 403.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    # A browser compares with the address that it sees itself, which is right behind any proxy.
    if site in ("same-origin", "none"):
        return
    if origin is not None:
        allowed = _is_allowed(origin, headers.get("host", ""), rules)
    else:
        allowed = site is None or _may_call_without_origin(headers, method, site, rules)
    if not allowed:
        sender = "another site" if origin is None else repr(origin[:80])
        raise RefusalError(
            403, "origin_not_allowed", f"pages of {sender} may not use this server{rules.origin_advice}"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is ``localhost`` or a loopback address; other names are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _is_allowed(origin: str, host: str, rules: SiteRules) -> bool:
    site = origin.partition("://")[2]
    if origin in rules.allowed_origins or (site and site == host):
        return True
    name = _strip_port(site).lower()
    return rules.trust_other_ports and (is_loopback(name) or name in (rules.allowed_hosts or ()))


def _may_call_without_origin(headers: Headers, method: str, site: str, rules: SiteRules) -> bool:
    if method not in _READING:
        return False
    if headers.get("sec-fetch-mode") == "navigate":  # a link or an address that the user opens
        return True
    return site == "same-site" and rules.trust_other_ports


def _strip_port(host: str) -> str:
    return host if host.endswith("]") else re.sub(r":\d*$", "", host)
