"""The options: what is accepted, and one sentence for what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from glm_frontend_api.config import ApiConfig, parse_config
from glm_http.access import is_loopback

from glm_core import ConfigError


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("LocalHost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.5", False),
        ("::ffff:127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("example.org", False),
    ],
)
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    """Only localhost and literal loopback addresses count; names are never looked up."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_machines_need_a_key_or_a_decision(host: str) -> None:
    """Without --api-key, GLM_API_KEY or --insecure a host that is not loopback is refused."""
    with pytest.raises(ConfigError, match="GLM_API_KEY.*--api-key.*--insecure"):
        parse_config({"host": host}, {})
    assert parse_config({"host": host, "insecure": True}, {}).api_key is None
    assert parse_config({"host": host}, {"GLM_API_KEY": "k"}).api_key == "k"
    assert parse_config({"host": host, "api_key": "k"}, {}).api_key == "k"


def test_key_of_the_command_line_wins_and_is_never_shown() -> None:
    """The option overrides the variable; the configuration's text has neither."""
    config = parse_config({"api_key": "from-option"}, {"GLM_API_KEY": "from-variable"})
    assert config.api_key == "from-option"
    assert "from-option" not in repr(config)


@pytest.mark.parametrize("key", ["two words", "schlüssel", "line\n"])
def test_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    """The refusal does not repeat the key."""
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        parse_config({"api_key": key}, {})
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "--port must be 0 to 65535, got 65536"),
        ({"port": -1}, "--port must be 0 to 65535, got -1"),
        ({"workers": 4}, "--workers 4: one process serves .* its own --port"),
        ({"workers": 0}, "--workers 0"),
        ({"max_tokens": -1}, "--max-tokens must be 0 or more, got -1"),
        ({"drain_seconds": -1.0}, "--drain-seconds must be 0 or more"),
        ({"max_body_bytes": 0}, "--max-body-bytes must be more than 0, got 0"),
        ({"max_requests": 0}, "--max-requests must be more than 0"),
        ({"time_limit": 0.0}, "--time-limit must be more than 0"),
        ({"time_limit": float("nan")}, "--time-limit must be more than 0"),
        ({"root_path": "glm"}, "--root-path 'glm': expected a path such as /glm"),
        ({"cors_origin": "example.org"}, "--cors-origin 'example.org': expected scheme and host"),
        ({"cors_origin": "*"}, "--cors-origin '\\*' lets every web page"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    """Each wrong option gives one sentence that names it and the value."""
    with pytest.raises(ConfigError, match=message):
        parse_config(options, {})


def test_adapters_folder_needs_a_key_and_a_directory(tmp_path: Path) -> None:
    """A folder that no client could use, or that is not there, is refused before a model is loaded."""
    folder = {"adapters_dir": str(tmp_path)}
    assert parse_config(folder, {"GLM_API_KEY": "k"}).adapters_dir == tmp_path
    assert parse_config({"adapters_dir": "~"}, {"GLM_API_KEY": "k"}).adapters_dir == Path.home()
    assert parse_config({}, {"GLM_API_KEY": "k"}).adapters_dir is None
    with pytest.raises(ConfigError, match="GLM_API_KEY"):
        parse_config(folder, {})
    with pytest.raises(ConfigError, match="--adapters-dir .*/none is not a directory"):
        parse_config({"adapters_dir": str(tmp_path / "none")}, {"GLM_API_KEY": "k"})


def test_lists_and_paths_are_read() -> None:
    """Origins are split at commas, a path's last slash does not matter."""
    config = parse_config(
        {"cors_origin": "https://a.example, http://b.example:81/", "root_path": "/glm/"}, {}
    )
    assert config.cors_origins == ("https://a.example", "http://b.example:81")
    assert config.root_path == "/glm"
    assert ApiConfig(cors_origins=("*",), api_key="k").cors_origins == ("*",)
