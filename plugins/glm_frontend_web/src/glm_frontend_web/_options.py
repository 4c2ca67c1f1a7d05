"""The options of ``glm run web``, checked before a model is opened."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glm_core import ConfigError
from glm_core.config import expand

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class WebOptions:
    """What the user asked for.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 = a free one.
        auth: user name and password, never shown.
        insecure: whether others may come in without a password.
        share: make a public link.
        inbrowser: open a browser.
        root_path: where a reverse proxy serves the page; empty = at the root.
        more_hosts: further names that the page answers to.
        with_api: serve the HTTP API beside the page.
        api_key: key of the API, never shown.
        adapters_dir: folder that the API's clients may have adapters loaded from; empty = none.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    auth: tuple[str, str] | None = field(default=None, repr=False)
    insecure: bool = False
    share: bool = False
    inbrowser: bool = False
    root_path: str = ""
    more_hosts: tuple[str, ...] = ()
    with_api: bool = False
    api_key: str | None = field(default=None, repr=False)
    adapters_dir: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be between 0 and 65535, got {self.port}")
        if not self.host.strip():
            raise ConfigError(
                "--host is empty; 127.0.0.1 keeps the page on this machine, 0.0.0.0 opens it to all"
            )
        if not re.fullmatch(r"(/[^/\s?#]+)*", self.root_path):
            raise ConfigError(f"--root-path must be a path such as /chat, got {self.root_path!r}")
        self._check_open()
        self._check_adapters_dir()

    def _check_open(self) -> None:
        """Refuse to open the page to others by accident."""
        opened = "--share" if self.share else "" if self.is_loopback else f"--host {self.host}"
        if not opened or self.insecure:
            return
        if self.auth is None:
            raise ConfigError(
                f"{opened} lets others reach the page: protect it with --auth USER:PASS (or GLM_WEB_AUTH), "
                "or say --insecure if anybody may come in"
            )
        if self.with_api and not self.api_key:
            raise ConfigError(
                f"{opened} lets others reach the API as well: give it a key with --api-key (or GLM_API_KEY), "
                "or say --insecure if anybody may use it"
            )

    def _check_adapters_dir(self) -> None:
        if not self.adapters_dir:
            return
        if not (self.with_api and self.api_key):
            raise ConfigError(
                "--adapters-dir is for clients of the HTTP API that send a key: add --with-api and set "
                "GLM_API_KEY, or leave it out"
            )
        if not expand(self.adapters_dir).is_dir():
            raise ConfigError(
                f"--adapters-dir {self.adapters_dir} is not a directory; make it, or pass another"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach ``host``."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def allowed_hosts(self) -> tuple[str, ...] | None:
        """Names that requests may be for; ``None`` = any, where others are let in on purpose."""
        if self.share or self.root_path or not self.is_loopback:
            return self.more_hosts or None
        return (*LOOPBACK_NAMES, self.host, *self.more_hosts)

    @classmethod
    def parse(cls, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> WebOptions:
        """Read the options as the command line or a caller gives them; all may be missing.

        Raises:
            ConfigError: a value cannot be used, or the page would be open to others by accident.
        """
        known: dict[str, Any] = {
            name: options[name]
            for name in ("host", "port", "insecure", "share", "inbrowser", "with_api")
            if options.get(name) is not None
        }
        names = (options.get("allowed_hosts") or "").split(",")
        return cls(
            **known,
            auth=_parse_credentials(options.get("auth") or environ.get("GLM_WEB_AUTH")),
            root_path=(options.get("root_path") or "").rstrip("/"),
            more_hosts=tuple(name.strip() for name in names if name.strip()),
            api_key=options.get("api_key") or environ.get("GLM_API_KEY"),
            adapters_dir=options.get("adapters_dir") or "",
        )


def _parse_credentials(text: str | None) -> tuple[str, str] | None:
    if not text:
        return None
    user, separator, password = text.partition(":")
    if not (separator and user.strip() and password.strip()):
        raise ConfigError("--auth (or GLM_WEB_AUTH) must be USER:PASS, with neither of them empty")
    return user.strip(), password.strip()
