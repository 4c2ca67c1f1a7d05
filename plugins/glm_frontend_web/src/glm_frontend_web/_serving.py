"""Serving the page: what ``glm run web`` starts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from glm_core import ChatModel, ConfigError
from glm_core.language import language
from glm_core.records import OpenModel

from ._api import ApiDispatcher, find_api, make_api
from ._guard import PageGuard
from ._options import WebOptions, find_port
from ._settings import PageSettings
from ._texts import SAY, Texts


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Serve the page until the user stops it; what ``glm run web`` starts.

    Args:
        open_model: opens the model; called once the options are known to be right.
        options: as `plugin` lists them; all may be missing.

    Raises:
        GlmError: an option is wrong, the port is in use, or the model cannot be opened.
    """
    checked = WebOptions.parse(options)
    port = find_port(checked.host, checked.port)
    factory = find_api() if checked.with_api else None
    say = SAY[language()]
    print(say("loading"), file=sys.stderr, flush=True)
    with open_model() as model:
        with serve_page(model, checked, port, factory) as (url, public_url):
            _announce(checked, url, public_url, say)
            adapter = PageSettings.from_model(model.info).adapter
            if adapter is not None:
                print(say("running_adapter", name=adapter), file=sys.stderr, flush=True)
            _wait_until_stopped()
    print(say("goodbye"), file=sys.stderr, flush=True)


@contextmanager
def serve_page(
    model: ChatModel, options: WebOptions, port: int, api_factory: Any = None
) -> Iterator[tuple[str, str | None]]:
    """Serve the page on ``model`` for the length of a ``with`` block.

    Args:
        model: what answers; it is not closed here.
        options: checked ones.
        port: where to listen.
        api_factory: what `find_api` found, to serve the API as well.

    Yields:
        The page's address, and the public one if there is one.
    """
    gradio = _import_gradio()
    from starlette.middleware import Middleware

    from ._handlers import PageHandlers
    from ._page import build_page

    middleware = [Middleware(PageGuard, allowed_hosts=options.allowed_hosts)]
    if api_factory is not None:
        api = make_api(
            api_factory,
            model,
            api_key=options.api_key,
            allowed_hosts=options.allowed_hosts,
            adapters_dir=options.adapters_dir,
        )
        middleware.insert(0, Middleware(ApiDispatcher, api=api))
    say = SAY[language()]
    title = f"{model.info.name} · glm"
    with gradio.Blocks(title=title, fill_height=True, fill_width=True, analytics_enabled=False) as blocks:
        page = build_page(model, say)
        PageHandlers(model, page).connect(blocks)
    blocks.queue(default_concurrency_limit=None, api_open=False)
    try:
        yield _launch(blocks, options, port, middleware)
    finally:
        blocks.close(verbose=False)


def _launch(blocks: Any, options: WebOptions, port: int, middleware: list[Any]) -> tuple[str, str | None]:
    """Start gradio's server on a thread of its own; return the page's address, and the public one.

    Raises:
        ConfigError: the port was taken since it was looked at.
    """
    from ._page import STATIC, build_theme

    plain = options.host.strip("[]")
    _bypass_proxies(plain)
    try:
        _, url, public_url = blocks.launch(
            server_name=f"[{plain}]" if ":" in plain else plain,  # gradio builds addresses of it
            server_port=port,
            share=options.share,
            inbrowser=options.inbrowser,
            inline=False,
            auth=options.auth,
            root_path=options.root_path,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size="10mb",
            app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None},
            theme=build_theme(),
            css=(STATIC / "page.css").read_text("utf-8"),
            js=(STATIC / "page.js").read_text("utf-8"),
        )
    except OSError as error:
        raise ConfigError(
            f"port {port} on {options.host} was taken by another program meanwhile; "
            "choose another with --port"
        ) from error
    return url, public_url


def _import_gradio() -> Any:
    """Import gradio, telling it first to leave the network alone."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradio's own dependencies; users can do nothing about them
        import gradio
    return gradio


def _bypass_proxies(host: str) -> None:
    """Let gradio's look at its own page go straight there, whatever proxy the user has for the web."""
    for name in ("no_proxy", "NO_PROXY"):
        known = [entry for entry in os.environ.get(name, "").split(",") if entry]
        os.environ[name] = ",".join(dict.fromkeys([*known, "localhost", "127.0.0.1", "::1", host]))


def _announce(options: WebOptions, url: str, public_url: str | None, say: Texts) -> None:
    print(say("running", url=url), flush=True)
    if options.with_api:
        print(say("running_api", url=url), flush=True)
    if public_url:
        print(say("running_public", url=public_url), flush=True)
    elif options.share:
        print(say("no_public"), file=sys.stderr, flush=True)


def _wait_until_stopped() -> None:
    """Wait for Ctrl-C, or for SIGTERM from whatever runs this as a service."""
    done = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, lambda *_: done.set()) if in_main_thread else None
    try:
        while not done.wait(1):  # in short waits, since Windows does not interrupt a long one
            pass
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous)
