"""Keys, hosts and origins."""

from __future__ import annotations

import pytest
from glm_http.access import SiteRules, check_host, check_key, check_origin, is_loopback
from glm_http.refusals import RefusalError
from starlette.datastructures import Headers

LOCAL = SiteRules(allowed_hosts=frozenset({"box"}), trust_other_ports=True)
PAGE = SiteRules(allowed_hosts=frozenset({"box"}), allowed_origins=frozenset({"https://chat.example"}))
OPEN = SiteRules()


def allows(rules: SiteRules, method: str = "POST", **headers: str) -> bool:
    """Whether a request passes the check of its origin; names of headers have ``_`` for ``-``."""
    named = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    try:
        check_origin(named, method, rules)
    except RefusalError as refusal:
        return (refusal.status, refusal.code) != (403, "origin_not_allowed")
    return True


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:80", "box", "BOX:8000"])
def test_own_names_are_answered(host: str) -> None:
    """Loopback's names and the allowed ones, on any port."""
    check_host(Headers({"host": host}), LOCAL)


@pytest.mark.parametrize(
    "host", ["evil.example", "box.evil.example", "10.0.0.1", "", "localhost.evil:80", "::1:x"]
)
def test_foreign_names_are_refused(host: str) -> None:
    """A name that a foreign site gave to this machine opens nothing."""
    with pytest.raises(RefusalError) as caught:
        check_host(Headers({"host": host}), LOCAL)
    assert (caught.value.status, caught.value.code) == (403, "host_not_allowed")
    check_host(Headers({"host": host}), OPEN)


@pytest.mark.parametrize(
    ("origin", "local", "page"),
    [
        ("http://box", True, True),
        ("http://box:3000", True, False),
        ("http://localhost:3000", True, False),
        ("https://chat.example", False, True),
        ("http://chat.example", False, False),
        ("https://evil.example", False, False),
        ("null", False, False),
        ("", False, False),
    ],
)
def test_pages_are_told_apart_by_their_origin(origin: str, local: bool, page: bool) -> None:
    """The same host always; other ports and named sites where the rules say so."""
    assert allows(LOCAL, host="box", origin=origin) is local
    assert allows(PAGE, host="box", origin=origin) is page


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_programs_without_a_browser_are_let_in(method: str) -> None:
    """Who sends neither header is no page."""
    assert allows(PAGE, method, host="box")


@pytest.mark.parametrize(
    ("method", "site", "mode", "local", "page"),
    [
        ("POST", "same-origin", "cors", True, True),
        ("POST", "none", "navigate", True, True),
        ("POST", "cross-site", "no-cors", False, False),
        ("POST", "cross-site", "navigate", False, False),
        ("POST", "same-site", "no-cors", False, False),
        ("GET", "cross-site", "no-cors", False, False),
        ("GET", "cross-site", "navigate", True, True),
        ("GET", "same-site", "no-cors", True, False),
        ("HEAD", "cross-site", "no-cors", False, False),
    ],
)
def test_requests_without_origin_are_told_apart_by_sec_fetch_site(
    method: str, site: str, mode: str, local: bool, page: bool
) -> None:
    """Forms, images and scripts of other sites are refused; a link that somebody follows is not."""
    headers = {"host": "box", "sec_fetch_site": site, "sec_fetch_mode": mode}
    assert allows(LOCAL, method, **headers) is local
    assert allows(PAGE, method, **headers) is page


def test_same_origin_counts_behind_a_proxy_that_changes_the_host() -> None:
    """The browser has compared with the address that it sees itself."""
    assert allows(PAGE, host="127.0.0.1:7860", origin="https://out.example", sec_fetch_site="same-origin")
    assert not allows(PAGE, host="127.0.0.1:7860", origin="https://out.example", sec_fetch_site="cross-site")


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ri", "Bearer right2", "Basic right", "right", "Bearer é"]
)
def test_only_the_whole_key_opens(value: str) -> None:
    """Anything but the key as a bearer token is a 401; the key itself is in no message."""
    with pytest.raises(RefusalError) as caught:
        check_key(Headers(raw=[(b"authorization", value.encode("latin-1"))]), "right")
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "right" not in caught.value.message
    check_key(Headers({"authorization": "bearer right"}), "right")
    check_key(Headers({}), None)


def test_two_keys_are_none() -> None:
    """What two readers could understand differently is refused."""
    twice = [(b"authorization", b"Bearer right"), (b"authorization", b"Bearer wrong")]
    with pytest.raises(RefusalError):
        check_key(Headers(raw=twice), "right")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "box", "", "127.0.0.1.evil.example")],
)
def test_loopback_is_known_without_a_lookup(host: str, expected: bool) -> None:
    """Addresses are compared as such, and no name but localhost counts."""
    assert is_loopback(host) is expected
