"""``POST /v1/completions``: going on from bare text."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from glm_core import ChatRequest, ToolCall

from .bodies import JsonRoute
from .documentation import ANSWERS, streamed
from .errors import invalid
from .openai_answers import Choice, Job, check_stream_options, respond, sampling_of, with_seeds
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
        """There is no role to tell."""

    def piece(self, text: str) -> Choice:
        """A piece of the text."""
        return {"text": text}

    def last(self) -> Choice:
        """Nothing more."""
        return {"text": ""}

    def whole(self, text: str, calls: Sequence[ToolCall]) -> Choice:
        """The text; without a chat format there are no calls."""
        return self.piece(text)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: streamed(CompletionResponse), **ANSWERS},
    summary="Go on from a text",
)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Goes on from one prompt or several, without any chat format."""
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
    sampling = sampling_of(body, service.config, body.max_tokens or min(DEFAULT_MAX_TOKENS, limit))
    requests = tuple(
        seeded
        for number, prompt in enumerate(body.prompts)
        for seeded in with_seeds(
            ChatRequest(prompt=prompt, sampling=sampling, adapter=served.adapter, stop=body.stops),
            body,
            number * n,
        )
    )
    return await respond(service, request, Job(body, requests, served, TextShape(), n))
