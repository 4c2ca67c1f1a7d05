"""The page as an ASGI application: gradio's, mounted, with everything around it."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from glm_core import ChatModel
from glm_core.language import get_language

from ._api import ApiDispatcher, make_api
from ._guard import guard_page
from ._options import WebOptions
from ._texts import SAY
from ._windows import MAX_WINDOWS, WindowKeeper
from ._work import PageWork

MAX_WAITING_EVENTS = 100
"""Events that wait for one of gradio's forty threads; each may hold a whole file."""


def build_app(model: ChatModel, options: WebOptions, api_factory: Any = None) -> tuple[ASGIApp, PageWork]:
    """Build the page on a model.

    Args:
        model: what answers.
        options: checked ones.
        api_factory: what `find_api` found, to serve the API as well.

    Returns:
        The application, and what it is doing.
    """
    gradio = import_gradio()
    from ._handlers import PageHandlers
    from ._page import build_page

    work = PageWork()
    title = f"{model.info.name} · glm"
    with gradio.Blocks(title=title, fill_height=True, fill_width=True, analytics_enabled=False) as blocks:
        page = build_page(model, SAY[get_language()])
        PageHandlers(model, page, work).connect(blocks)
    # The model has a queue of its own, so gradio's lets everything through.
    blocks.queue(default_concurrency_limit=None, api_open=False, max_size=MAX_WAITING_EVENTS)
    blocks.state_session_capacity = MAX_WINDOWS
    outer, gradio_app = _mount(gradio, blocks, options, work)
    app = guard_page(
        WindowKeeper(outer, gradio_app, blocks), gradio_app, options.allowed_hosts, options.root_path
    )
    if api_factory is None:
        return app, work
    api = make_api(
        api_factory,
        model,
        api_key=options.api_key,
        allowed_hosts=options.allowed_hosts,
        adapters_dir=options.adapters_dir,
    )
    return ApiDispatcher(app, api, work, options.root_path), work


def import_gradio() -> Any:
    """Import gradio, telling it first to leave the network alone and to keep few statistics."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # After every event gradio makes a table of as many past ones, for a monitor that this page does not have.
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "10")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradio's own dependencies; users can do nothing about them
        import gradio
    return gradio


def _mount(gradio: Any, blocks: Any, options: WebOptions, work: PageWork) -> tuple[FastAPI, Any]:
    """Mount the page in an application of our own; return that, and gradio's.

    Not ``blocks.launch``, which serves by itself: without limits, and with no say in how it stops.
    """
    from ._page import STATIC, build_theme

    @asynccontextmanager
    async def set_closers(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        gradio_app = app.routes[-1].app  # type: ignore[attr-defined]  # the one thing that is mounted
        work.set_closers(
            lambda: loop.call_soon_threadsafe(gradio_app.stop_event.set),  # ends the windows' connections
            blocks._queue.close,
        )
        yield

    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=set_closers)
    gradio.mount_gradio_app(
        outer,
        blocks,
        path="/",
        auth=options.auth,
        root_path=options.root_path,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=1,  # of uploads, which are refused before they come as far
        theme=build_theme(),
        css=(STATIC / "page.css").read_text("utf-8"),
        js=(STATIC / "page.js").read_text("utf-8"),
    )
    return outer, outer.routes[-1].app  # type: ignore[attr-defined]
