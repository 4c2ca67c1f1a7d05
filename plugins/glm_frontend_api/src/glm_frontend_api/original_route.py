"""``POST /``, as ChatGLM6Bpkg's server had it."""

from __future__ import annotations

import functools
import time

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from glm_core import ChatRequest, Sampling
from glm_core.records import build_messages

from .bodies import JsonRoute, run_beside_loop
from .documentation import ORIGINAL_ANSWERS
from .errors import TIME_FORMAT
from .event_stream import run_for_client
from .generation import Generation
from .openai_answers import MIN_TEMPERATURE, limit_temperature
from .responses import OriginalResponse
from .schemas import OriginalRequest
from .service import Service

router = APIRouter(route_class=JsonRoute)


@router.post(
    "/",
    response_model=None,
    responses={200: {"model": OriginalResponse}, **ORIGINAL_ANSWERS},
    summary="The original's only route",
)
async def chat(request: Request, body: OriginalRequest) -> Response:
    """Answer a prompt and return the history grown by this turn."""
    service: Service = request.app.state.service
    chat_request = await run_beside_loop(request, functools.partial(_build_request, service, body))
    async with Generation(service, [chat_request]) as generation:
        text = await run_for_client(request, _collect_text(generation))
    content = {
        "response": text,
        "history": [*(body.history or []), [body.prompt, text]],
        "status": 200,
        "time": time.strftime(TIME_FORMAT),
    }
    dropped = generation.usages[0].dropped_messages
    return JSONResponse(content, headers={"x-dropped-messages": str(dropped)} if dropped else None)


def _build_request(service: Service, body: OriginalRequest) -> ChatRequest:
    return ChatRequest(
        messages=build_messages(body.history or [], body.prompt),
        sampling=Sampling(
            max_new_tokens=service.config.max_tokens or None,
            max_length=body.max_length or None,
            top_p=body.top_p or None,
            temperature=limit_temperature(body.temperature or None),
            do_sample=body.temperature >= MIN_TEMPERATURE if body.temperature else None,
        ),
        adapter=service.find_default_model().adapter,
    )


async def _collect_text(generation: Generation) -> str:
    return "".join([piece.delta.text async for piece in generation.iterate_pieces() if piece is not None])
