"""``/v1/adapters``: which adapters there are, and loading and removing them while the server runs.

Loading one reads the server's disk, so it takes a key, and a folder that the operator names.
"""

from __future__ import annotations

import functools

import anyio
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from glm_core import AdapterError, OutsideFolderError

from .adapter_folder import build_outside_error, hide_folder, resolve_directory
from .bodies import JsonRoute
from .documentation import ADAPTER_CHANGES, ADAPTER_REMOVALS, REFUSALS
from .errors import ApiError, build_invalid_error
from .models_route import describe_model
from .problem_log import log_problem
from .responses import DeletedResponse, ModelListResponse, ModelResponse
from .schemas import AdapterRequest
from .service import ServedModel, Service

router = APIRouter()
with_body = APIRouter(route_class=JsonRoute)


@router.get(
    "/v1/adapters",
    response_model=None,
    responses={200: {"model": ModelListResponse}, **REFUSALS},
    summary="Adapters that requests may name",
)
async def list_adapters(request: Request) -> JSONResponse:
    """List the names of /v1/models that are adapters."""
    service: Service = request.app.state.service
    cards = [describe_model(service, model) for model in service.list_models() if model.adapter is not None]
    return JSONResponse({"object": "list", "data": cards})


@with_body.post(
    "/v1/adapters",
    status_code=201,
    response_model=None,
    responses={201: {"model": ModelResponse}, **ADAPTER_CHANGES},
    summary="Load an adapter from a directory of the server",
)
async def add_adapter(request: Request, body: AdapterRequest) -> JSONResponse:
    """Load an adapter; requests may name it as soon as this has answered, and running answers go on."""
    service: Service = request.app.state.service
    _check_key(service)
    folder = service.config.adapters_dir
    if folder is None:
        raise ApiError(
            403,
            "this server loads no adapters while it runs; start it with --adapters-dir DIR, the folder that "
            "they may be loaded from",
            "adapters_not_allowed",
        )
    # On a thread, because a directory may hold thousands of files, and other requests go on meanwhile.
    directory = await anyio.to_thread.run_sync(resolve_directory, body.path, folder)
    async with service.changing_adapters:  # one at a time: each may take much memory while it is read
        if body.name in service.model.info.adapters:
            raise ApiError(
                409,
                f"the adapter {body.name!r} is loaded already; DELETE /v1/adapters/{body.name} removes it",
                "adapter_exists",
                param="name",
            )
        try:
            add = functools.partial(service.model.add_adapter, body.name, directory, inside=folder)
            await anyio.to_thread.run_sync(add)
        except OutsideFolderError as error:
            log_problem(error)
            raise build_outside_error(body.path) from error
        except AdapterError as error:
            log_problem(error)
            raise build_invalid_error(hide_folder(str(error), folder), None, "adapter_refused") from error
    return JSONResponse(describe_model(service, ServedModel(service.join_name(body.name), body.name)), 201)


@router.delete(
    "/v1/adapters/{name}",
    response_model=None,
    responses={200: {"model": DeletedResponse}, **ADAPTER_REMOVALS},
    summary="Remove an adapter",
)
async def remove_adapter(request: Request, name: str) -> JSONResponse:
    """Forget an adapter; requests that were accepted with it are answered, and its files stay."""
    service: Service = request.app.state.service
    _check_key(service)
    async with service.changing_adapters:
        loaded = service.model.info.adapters
        if name not in loaded:
            raise ApiError(
                404,
                f"the adapter {name[:80]!r} is not loaded; there are: {', '.join(loaded) or 'none'}",
                "adapter_not_found",
                param="name",
            )
        try:
            await anyio.to_thread.run_sync(service.model.remove_adapter, name)
        except AdapterError as error:
            log_problem(error)
            raise build_invalid_error(str(error), None, "adapter_refused") from error
    return JSONResponse({"id": service.join_name(name), "object": "model", "deleted": True})


router.include_router(with_body)


def _check_key(service: Service) -> None:
    """Refuse changes on a server without a key; with one, whoever gets here has sent it."""
    if service.config.api_key is None:
        raise ApiError(
            403,
            "adapters can be changed only on a server with an API key: start it with GLM_API_KEY set, and "
            "send the header Authorization: Bearer KEY",
            "api_key_required",
        )
