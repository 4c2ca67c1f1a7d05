"""What ``glm run api`` starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_http.logs import open_standard_files, print_notice
from glm_http.server import Server, bind, format_url

from glm_core.records import OpenModel

from .app import build_app
from .config import parse_config
from .service import Service


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; what ``glm run api`` starts.

    Args:
        open_model: opens the model; called once the options are right and the port is bound.
        options: as `plugin` lists them; all may be missing.

    Raises:
        ConfigError: an option is wrong, or the port is in use.
        GlmError: the model cannot be opened.
    """
    config = parse_config(options)
    open_standard_files()
    # The port is bound first, so that one in use is refused before gigabytes are read.
    with bind(config.host, config.port) as listener, open_model() as model:
        service = Service(model, config)
        print_notice(f"serving {service.name} on {format_url(listener)} (Ctrl-C stops)")
        default = service.find_default_model()
        if default.adapter is not None:
            print_notice(
                f"'default' and POST / are {default.name}, the only adapter; without it: {service.name}"
            )
        if config.insecure and not config.on_loopback and config.api_key is None:
            print_notice("everybody who can reach this port may use the model, since --insecure is given")
        build_server(service).run(sockets=[listener])
    print_notice("stopped")


def build_server(service: Service) -> Server:
    """Return the server of a service; a signal lets its running answers finish."""
    config = service.config
    return Server(
        build_app(service),
        work=service,
        drain_seconds=config.drain_seconds,
        body_seconds=config.body_seconds,
    )
