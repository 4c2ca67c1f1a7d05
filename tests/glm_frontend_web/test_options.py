"""The options of ``glm run web``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from glm_frontend_web._options import WebOptions

from glm_core import ConfigError


def parse(**options: Any) -> WebOptions:
    """Options without the environment of whoever runs the tests."""
    return WebOptions.parse(options, environ={})


def test_by_default_the_page_is_for_this_machine_only() -> None:
    """Loopback, answering to its own names only; nothing is shared."""
    options = parse()
    assert (options.host, options.port, options.share, options.auth) == ("127.0.0.1", 7860, False, None)
    assert options.allowed_hosts == ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_loopback_needs_no_password(host: str) -> None:
    """Every spelling of this machine."""
    assert parse(host=host).is_loopback


@pytest.mark.parametrize(
    "more", [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "example.org"}, {"share": True}]
)
def test_opening_the_page_to_others_must_be_meant(more: dict[str, Any]) -> None:
    """Elsewhere than on loopback, and with a public link: a password, or the word insecure."""
    with pytest.raises(ConfigError, match=r"lets others reach.*--auth .*--insecure"):
        parse(**more)
    assert parse(**more, auth="ann:secret").auth == ("ann", "secret")
    assert parse(**more, insecure=True).insecure
    with pytest.raises(ConfigError, match="lets others reach.*API"):
        parse(**more, auth="ann:secret", with_api=True)
    assert parse(**more, auth="ann:secret", with_api=True, api_key="k").api_key == "k"


def test_a_folder_of_adapters_is_for_an_api_with_a_key(tmp_path: Path) -> None:
    """Where nobody could use it, or it is not there, that is said before a model is loaded."""
    folder = str(tmp_path)
    assert parse(adapters_dir=folder, with_api=True, api_key="k").adapters_dir == folder
    for more in ({}, {"with_api": True}, {"api_key": "k"}):
        with pytest.raises(ConfigError, match="--with-api.*GLM_API_KEY"):
            parse(adapters_dir=folder, **more)
    with pytest.raises(ConfigError, match="--adapters-dir .*/none is not a directory"):
        parse(adapters_dir=f"{folder}/none", with_api=True, api_key="k")


def test_secrets_may_come_from_the_environment_and_are_never_shown() -> None:
    """GLM_WEB_AUTH and GLM_API_KEY; neither is part of what is printed."""
    options = WebOptions.parse({}, environ={"GLM_WEB_AUTH": "ann:pass:word", "GLM_API_KEY": "keykey"})
    assert options.auth == ("ann", "pass:word")
    assert options.api_key == "keykey"
    assert "pass" not in repr(options)
    assert "keykey" not in repr(options)


@pytest.mark.parametrize("auth", ["ann", "ann:", ":secret", " : "])
def test_a_wrong_password_option_is_refused_without_repeating_it(auth: str) -> None:
    """The message says what is expected, not what was given."""
    with pytest.raises(ConfigError, match="must be USER:PASS") as raised:
        parse(auth=auth)
    assert "ann" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 65536}, "--port must be between 0 and 65535, got 65536"),
        ({"port": -1}, "got -1"),
        ({"host": " "}, "--host is empty"),
        ({"root_path": "chat"}, "--root-path must be a path such as /chat, got 'chat'"),
        ({"root_path": "/a b"}, "--root-path"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], said: str) -> None:
    """Each with the value and what was expected."""
    with pytest.raises(ConfigError, match=said):
        parse(**options)


def test_a_page_that_is_meant_for_others_answers_to_any_name_unless_told() -> None:
    """Behind a proxy, shared, or on a network the names are not known; --allowed-hosts names them."""
    assert parse(root_path="/chat/").root_path == "/chat"
    assert parse(root_path="/chat").allowed_hosts is None
    assert parse(host="0.0.0.0", insecure=True).allowed_hosts is None
    assert parse(host="0.0.0.0", insecure=True, allowed_hosts="a.org, b.org").allowed_hosts == (
        "a.org",
        "b.org",
    )
    assert "a.org" in parse(allowed_hosts="a.org").allowed_hosts
