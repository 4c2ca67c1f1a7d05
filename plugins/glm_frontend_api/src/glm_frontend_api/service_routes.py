"""``GET /health``, ``/ready`` and ``/metrics``, for those who run the server."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from .documentation import REFUSALS
from .metrics import CONTENT_TYPE
from .readiness import Readiness
from .responses import StatusResponse
from .service import Service

router = APIRouter()


@router.get(
    "/health",
    response_model=None,
    responses={200: {"model": StatusResponse}},
    summary="Whether the process is alive",
)
async def report_health() -> JSONResponse:
    """Answer always; needs no key and asks no model."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/ready",
    response_model=None,
    responses={200: {"model": StatusResponse}, **REFUSALS, 503: {"model": StatusResponse}},
    summary="Whether tokens flow",
)
async def report_readiness(request: Request) -> JSONResponse:
    """Have the model generate one token, unless others' answers show that it does."""
    readiness: Readiness = request.app.state.readiness
    reason = await readiness.find_obstacle()
    if reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": f"not ready: {reason}"}, 503)


@router.get(
    "/metrics",
    response_model=None,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **REFUSALS},
    summary="Counters for Prometheus",
)
async def render_metrics(request: Request) -> Response:
    """Return all counters in Prometheus' text format."""
    service: Service = request.app.state.service
    text = await anyio.to_thread.run_sync(service.metrics.render)  # a runtime may have to wait for a lock
    return Response(text, media_type=CONTENT_TYPE)
