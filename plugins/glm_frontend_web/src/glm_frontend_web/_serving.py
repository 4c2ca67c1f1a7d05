"""Serving the page: what ``glm run web`` starts."""

from __future__ import annotations

import secrets
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from socket import socket
from typing import Any, TextIO

from glm_http.logs import open_standard_files
from glm_http.server import Server, bind, serve_on_thread

from glm_core import ChatModel
from glm_core.language import get_language
from glm_core.records import OpenModel

from ._api import find_api
from ._options import WebOptions
from ._settings import PageSettings
from ._texts import SAY, Texts

_DRAIN_SECONDS = 30.0
"""How long running answers may go on after the first signal; a second one ends them at once."""


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Serve the page until the user stops it; what ``glm run web`` starts.

    Args:
        open_model: opens the model; called once the options are known to be right.
        options: as `plugin` lists them; all may be missing.

    Raises:
        GlmError: an option is wrong, the port is in use, or the model cannot be opened.
    """
    checked = WebOptions.parse(options)
    open_standard_files()
    # The port is bound first, so that one in use is refused before gigabytes are read.
    with bind(checked.host, checked.port) as listener:
        api_factory = find_api() if checked.with_api else None
        say = SAY[get_language()]
        _print(say("loading"))
        with open_model() as model:
            server = build_server(model, checked, api_factory)
            url = format_page_url(checked, listener)
            with _open_public_link(checked, listener) as public_url:
                _announce(model, checked, url, public_url, say)
                # Whoever comes before the server is up waits in the listener's queue.
                server.run([listener])
    _print(say("goodbye"))


@contextmanager
def serve_page(
    model: ChatModel, options: WebOptions, listener: socket, api_factory: Any = None
) -> Iterator[str]:
    """Serve the page on a thread for the length of a ``with`` block.

    Args:
        model: what answers; it is not closed here.
        options: checked ones.
        listener: what `glm_http.server.bind` returned; it is not closed here.
        api_factory: what `find_api` found, to serve the API as well.

    Yields:
        The page's address.
    """
    with serve_on_thread(build_server(model, options, api_factory), listener):
        yield format_page_url(options, listener)


def build_server(model: ChatModel, options: WebOptions, api_factory: Any = None) -> Server:
    """Return the server of the page on a model; it does not run yet."""
    from ._app import build_app  # here, because gradio takes seconds to import

    app, work = build_app(model, options, api_factory)
    return Server(app, work=work, drain_seconds=_DRAIN_SECONDS)


def format_page_url(options: WebOptions, listener: socket) -> str:
    """Return the address under which this machine reaches the page."""
    host = options.host.strip("[]")
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"


@contextmanager
def _open_public_link(options: WebOptions, listener: socket) -> Iterator[str | None]:
    """Yield a public address through gradio's relay, where one was asked for and can be had."""
    if not options.share:
        yield None
        return
    from ._app import import_gradio

    import_gradio()
    from gradio import networking, tunneling

    try:
        address = networking.setup_tunnel(
            "127.0.0.1", listener.getsockname()[1], secrets.token_urlsafe(32), None, None
        )
    except Exception:  # of the network, the relay or its program; the page itself does not need it
        address = None
    try:
        # The relay names the scheme that it speaks with us; towards visitors it is always https.
        yield address and f"https://{address.partition('://')[2]}"
    finally:
        for tunnel in tunneling.CURRENT_TUNNELS:
            tunnel.kill()  # type: ignore[no-untyped-call]  # gradio's


def _announce(model: ChatModel, options: WebOptions, url: str, public_url: str | None, say: Texts) -> None:
    _print(say("running", url=url), sys.stdout)
    if options.with_api:
        _print(say("running_api", url=url), sys.stdout)
    if public_url:
        _print(say("running_public", url=public_url), sys.stdout)
    elif options.share:
        _print(say("no_public"))
    adapter = PageSettings.from_model(model.info).adapter
    if adapter is not None:
        _print(say("running_adapter", name=adapter))
    if options.inbrowser:
        webbrowser.open(public_url or url)


def _print(line: str, stream: TextIO | None = None) -> None:
    """Print a line, to standard error unless told otherwise."""
    # A disk that is full, or a pipe without a reader, is no reason not to serve.
    with suppress(OSError, ValueError):
        print(line, file=stream or sys.stderr, flush=True)
