"""How a request is turned away before anything answers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

RefusalCode = Literal[
    "invalid_api_key",
    "host_not_allowed",
    "origin_not_allowed",
    "login_required",
    "not_served",
    "ambiguous_length",
    "body_too_large",
    "body_timeout",
    "too_many_bodies",
    "bad_event",
    "server_stopping",
]


class RefusalError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        code: what programs look at.
        message: for the person at the other end: what was wrong and what to do.
        headers: to send with it.
    """

    def __init__(
        self, status: int, code: RefusalCode, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
