"""One path for the several ways in which clients write it."""

from __future__ import annotations

import pytest
from glm_http.paths import normalize_path
from hypothesis import given, strategies


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1///models//", "/v1/models"),
        ("/", "/"),
        ("//", "/"),
        ("", "/"),
        ("http://localhost:8000/v1/models", "/v1/models"),
        ("HTTPS://localhost", "/"),
        ("/v1/models/THUDM/chatglm-6b", "/v1/models/THUDM/chatglm-6b"),
    ],
)
def test_path_reaches_its_route(path: str, expected: str) -> None:
    """Doubled and trailing slashes, and whole addresses, mean the route without them."""
    assert normalize_path(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/glm/v1/models", "/v1/models"),
        ("//glm//", "/"),
        ("/glm", "/"),
        ("/glmx/v1", "/glmx/v1"),
        ("/v1", "/v1"),
    ],
)
def test_prefix_of_a_proxy_is_taken_away(path: str, expected: str) -> None:
    """It goes where it is a whole part of the path; a proxy may take it away itself."""
    assert normalize_path(path, "/glm") == expected


@given(strategies.text(alphabet="/ab.%:"))
def test_normal_paths_stay(path: str) -> None:
    """Whatever comes: one slash at the front, none doubled, and a second time changes nothing."""
    normal = normalize_path(f"/{path}")
    assert normal.startswith("/")
    assert "//" not in normal
    assert normalize_path(normal) == normal
