"""The options of the server, checked once; the only place of this plugin that reads the environment."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm_http.access import is_loopback

from glm_core import ConfigError
from glm_core.config import expand

KEY_VARIABLE = "GLM_API_KEY"


@dataclass(frozen=True)
class ApiConfig:
    """How to serve. Fields up to ``adapters_dir`` are options of ``glm run api``.

    Attributes:
        host: address or name to bind to.
        port: TCP port; 0 = any free one.
        api_key: what clients must send; ``None`` = nothing.
        insecure: serve other machines without a key.
        workers: processes; only 1 is possible.
        served_model_name: what clients call the model; ``None`` = its own name.
        max_tokens: tokens of one answer at most; 0 = no limit but the model's.
        max_body_bytes: of one request.
        max_requests: answers that may run or wait at the same time.
        time_limit: seconds for one request.
        drain_seconds: seconds that running answers get when the server is stopped.
        root_path: path under which a proxy serves this.
        cors_origins: web origins whose pages may call.
        adapters_dir: folder that clients with the key may have adapters loaded from; ``None`` = none.
        allowed_hosts: names beside loopback's own by which clients without a key may call a
            server on loopback.
        body_seconds: seconds in which a request's head, and then its body, must have arrived.
        stall_seconds: seconds that a client may leave its stream unread.
        comment_seconds: silence after which a stream sends a comment, so that no proxy gives up.
        header_seconds: how long a stream waits for its first token before its status is sent.
        ready_seconds: seconds in which ``/ready`` must see a token.
        buffered_deltas: pieces of an answer that wait for a slow reader before generating pauses.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    workers: int = 1
    served_model_name: str | None = None
    max_tokens: int = 0
    max_body_bytes: int = 2**20
    max_requests: int = 256
    time_limit: float = 600.0
    drain_seconds: float = 30.0
    root_path: str = ""
    cors_origins: tuple[str, ...] = ()
    adapters_dir: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    body_seconds: float = 30.0
    stall_seconds: float = 30.0
    comment_seconds: float = 15.0
    header_seconds: float = 2.0
    ready_seconds: float = 10.0
    buffered_deltas: int = 64

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, f"--port must be 0 to 65535, got {self.port}")
        _require(
            self.workers == 1,
            f"--workers {self.workers}: one process serves all requests at the same time, and each more "
            "would hold its own copy of the weights; to use several devices, start one glm run api per "
            "device, each with its own --port and --device, behind a proxy",
        )
        for name in ("max_tokens", "drain_seconds"):
            value = getattr(self, name)
            _require(value >= 0, f"--{name.replace('_', '-')} must be 0 or more, got {value}")
        for name in ("max_body_bytes", "max_requests", "time_limit"):
            value = getattr(self, name)
            _require(value > 0, f"--{name.replace('_', '-')} must be more than 0, got {value}")
        self._check_access()
        self._check_adapters_dir()

    @property
    def on_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return is_loopback(self.host)

    def _check_adapters_dir(self) -> None:
        if self.adapters_dir is None:
            return
        _require(
            self.adapters_dir.is_dir(),
            f"--adapters-dir {self.adapters_dir} is not a directory; make it, or pass another",
        )
        _require(
            self.api_key is not None,
            f"--adapters-dir lets clients load what is in {self.adapters_dir}, which takes an API key: "
            f"set {KEY_VARIABLE} (or pass --api-key), or leave --adapters-dir out",
        )

    def _check_access(self) -> None:
        _require(
            self.api_key is None or re.fullmatch(r"[!-~]+", self.api_key) is not None,
            "the API key must be printable ASCII without spaces, since it travels in a header; "
            f"set {KEY_VARIABLE} to another",
        )
        _require(
            self.on_loopback or self.api_key is not None or self.insecure,
            f"--host {self.host} lets other machines in: set {KEY_VARIABLE} (or pass --api-key) so that only "
            "clients with the key are answered, or pass --insecure to answer everybody",
        )
        for origin in self.cors_origins:
            _require(
                origin == "*" or re.fullmatch(r"https?://[^/\s,*]+", origin) is not None,
                f"--cors-origin {origin!r}: expected scheme and host, such as https://chat.example.org",
            )
        _require(
            "*" not in self.cors_origins or self.api_key is not None,
            f"--cors-origin '*' lets every web page use the model: set {KEY_VARIABLE}, or name the origins",
        )
        _require(
            not self.root_path or re.fullmatch(r"(/[\w.~-]+)+", self.root_path) is not None,
            f"--root-path {self.root_path!r}: expected a path such as /glm",
        )


def parse_config(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ApiConfig:
    """Return the configuration that options of `plugin` and the environment describe.

    Raises:
        ConfigError: a value cannot be used; the key itself is never part of the message.
    """
    known = {field.name for field in dataclasses.fields(ApiConfig)}
    values = {name: value for name, value in options.items() if name in known and value is not None}
    values["api_key"] = options.get("api_key") or environ.get(KEY_VARIABLE) or None
    values["root_path"] = (options.get("root_path") or "").rstrip("/")
    values["adapters_dir"] = parse_folder(options.get("adapters_dir"))
    origins = (options.get("cors_origin") or "").split(",")
    values["cors_origins"] = tuple(origin.strip().rstrip("/") for origin in origins if origin.strip())
    return ApiConfig(**values)


def parse_folder(path: str | None) -> Path | None:
    """Return the directory that the user wrote, ``~`` expanded; ``None`` if that was nothing."""
    return expand(path) if path else None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
