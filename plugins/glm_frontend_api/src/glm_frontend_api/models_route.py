"""``GET /v1/models``: which names a request may use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from .documentation import NOT_FOUND, REFUSALS
from .responses import ModelListResponse, ModelResponse
from .service import ServedModel, Service

router = APIRouter()


@router.get(
    "/v1/models",
    response_model=None,
    responses={200: {"model": ModelListResponse}, **REFUSALS},
    summary="Names that requests may use",
)
async def list_models(request: Request) -> JSONResponse:
    """List the base model and one name for each adapter."""
    service: Service = request.app.state.service
    return JSONResponse(
        {"object": "list", "data": [describe_model(service, model) for model in service.list_models()]}
    )


@router.get(
    "/v1/models/{model_id:path}",
    response_model=None,
    responses={200: {"model": ModelResponse}, **REFUSALS, **NOT_FOUND},
    summary="One name",
)
async def get_model(request: Request, model_id: str) -> JSONResponse:
    """Describe the model that a name stands for; ``default`` is resolved."""
    service: Service = request.app.state.service
    return JSONResponse(describe_model(service, service.find_model(model_id)))


def describe_model(service: Service, model: ServedModel) -> dict[str, Any]:
    """Return what clients are told of a model."""
    return {
        "id": model.name,
        "object": "model",
        "created": service.started,
        "owned_by": "glm",
        "context_length": service.model.info.context_length,
        "parent": None if model.adapter is None else service.name,
    }
