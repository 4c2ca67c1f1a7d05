"""``POST /v1/completions``: going on from bare text."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from glm_core import ChatRequest, ToolCall

from .bodies import JsonRoute
from .documentation import ANSWERS, describe_stream
from .errors import invalid
from .openai_answers import Choice, Job, add_seeds, check_stream_options, read_sampling, respond
from .responses import CompletionResponse
from .schemas import MAX_ANSWERS, CompletionRequest
from .service import Service

DEFAULT_MAX_TOKENS = 16
"""As at OpenAI: without a chat format a model rarely ends by itself."""

router = APIRouter(route_class=JsonRoute)


class TextShape:
    """Completed texts."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def first(self) -> None:
        """Return nothing, since a text has no role."""

    def piece(self, text: str) -> Choice:
        """Return a piece of the text."""
        return {"text": text}

    def last(self) -> Choice:
        """Return no more text."""
        return {"text": ""}

    def whole(self, text: str, calls: Sequence[ToolCall]) -> Choice:
        """Return the text; without a chat format there are no calls."""
        return self.piece(text)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: describe_stream(CompletionResponse), **ANSWERS},
    summary="Go on from a text",
)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Go on from one prompt or several, without any chat format."""
    service: Service = request.app.state.service
    served = service.find_model(body.model)
    check_stream_options(body)
    n = body.n or 1
    if n * len(body.prompts) > MAX_ANSWERS:
        raise invalid(
            f"{len(body.prompts)} prompts with n {n} are {n * len(body.prompts)} answers; "
            f"one request may ask for {MAX_ANSWERS}",
            "n",
        )
    limit = service.config.max_tokens or DEFAULT_MAX_TOKENS
    sampling = read_sampling(body, service.config, body.max_tokens or min(DEFAULT_MAX_TOKENS, limit))
    requests = tuple(
        seeded
        for number, prompt in enumerate(body.prompts)
        for seeded in add_seeds(
            ChatRequest(prompt=prompt, sampling=sampling, adapter=served.adapter, stop=body.stops),
            body,
            number * n,
        )
    )
    return await respond(service, request, Job(body, requests, served, TextShape(), n))
