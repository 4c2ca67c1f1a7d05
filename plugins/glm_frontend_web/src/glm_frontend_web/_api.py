"""The HTTP API beside the page, from whatever package offers one.

A frontend imports no other, so the API is found through an entry point: group ``glm.asgi``, name
``api``, a function ``(model, *, api_key=None, allowed_hosts=None, adapters_dir=None)`` that returns a
Starlette (or FastAPI) app for a `glm_core.ChatModel`, which it does not close.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib import metadata
from typing import Any

from glm_http.paths import normalize_path
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from glm_core import ChatModel, PluginError

from ._work import PageWork

GROUP, NAME, PACKAGE = "glm.asgi", "api", "glm-frontend-api"
PATHS = frozenset({"/health", "/ready", "/metrics", "/openapi.json"})
PREFIX = "/v1"


def find_api() -> Any:
    """Return the function that makes the API's app.

    Raises:
        PluginError: none is installed, or it is broken.
    """
    point = next(iter(metadata.entry_points(group=GROUP, name=NAME)), None)
    if point is None:
        raise PluginError(f"--with-api needs a package that is not installed: pip install {PACKAGE}")
    try:
        return point.load()
    except Exception as error:  # a plugin's import: whatever goes wrong there, the plugin is named
        raise PluginError(
            f"--with-api: {point.value} cannot be loaded ({type(error).__name__}: {error}). "
            f"Install {PACKAGE} again, or report this to its author."
        ) from error


def make_api(
    factory: Any,
    model: ChatModel,
    *,
    api_key: str | None,
    allowed_hosts: Sequence[str] | None,
    adapters_dir: str = "",
) -> ASGIApp:
    """Make the API's app on ``model``; the folder of adapters is passed on only where there is one.

    Raises:
        PluginError: the function does not do what its contract says.
    """
    try:
        more = {"adapters_dir": adapters_dir} if adapters_dir else {}
        app: ASGIApp = factory(model, api_key=api_key, allowed_hosts=allowed_hosts, **more)
    except TypeError as error:
        raise PluginError(
            f"--with-api: the installed {PACKAGE} does not fit this version ({error}); update both packages"
        ) from error
    return app


class ApiDispatcher:
    """An ASGI middleware that hands the API's requests to the API, and all others to the page.

    The API has its own paths, and ``POST /``, which was the original's only call; ``GET /`` is the page.

    Args:
        app: the page.
        api: the API.
        work: counts the API's requests.
        root_path: path under which a proxy serves both.
    """

    def __init__(self, app: ASGIApp, api: ASGIApp, work: PageWork, root_path: str = "") -> None:
        self._app = app
        self._api = api
        self._work = work
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run through the life of the server."""
        if scope["type"] == "lifespan":
            async with _get_lifespan(self._api):
                await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._is_for_api(scope):
            if self._work.is_draining and scope["method"] == "POST":
                error = {"message": "the server is stopping", "type": "server_error", "code": "stopping"}
                await JSONResponse({"error": error}, 503)(scope, receive, send)
                return
            with self._work.count():
                await self._api(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_for_api(self, scope: Scope) -> bool:
        return is_api_request(scope["method"], normalize_path(scope["path"], self._root_path))


def is_api_request(method: str, path: str) -> bool:
    """Return whether a request is the API's."""
    if path == "/":
        return method == "POST"
    return path in PATHS or path == PREFIX or path.startswith(f"{PREFIX}/")


def _get_lifespan(app: Any) -> AbstractAsyncContextManager[Any]:
    router = getattr(app, "router", None)
    if router is not None and hasattr(router, "lifespan_context"):
        context: AbstractAsyncContextManager[Any] = router.lifespan_context(app)
        return context
    return nullcontext()  # an app of another kind has no life of its own
