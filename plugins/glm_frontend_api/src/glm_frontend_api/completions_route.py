"""``POST /v1/completions``: going on from bare text."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from glm_core import ChatRequest, ToolCall

from .bodies import JsonRoute, run_beside_loop
from .documentation import ANSWERS, describe_stream
from .errors import build_invalid_error
from .openai_answers import AnswerJob, Choice, add_seeds, check_stream_options, read_sampling, send_answers
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

    def build_first(self) -> None:
        """Return nothing, since a text has no role."""

    def build_piece(self, text: str) -> Choice:
        """Return a piece of the text."""
        return {"text": text}

    def build_last(self) -> Choice:
        """Return no more text."""
        return {"text": ""}

    def build_whole(self, text: str, calls: Sequence[ToolCall]) -> Choice:
        """Return the text; without a chat format there are no calls."""
        return self.build_piece(text)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: describe_stream(CompletionResponse), **ANSWERS},
    summary="Go on from a text",
)
async def complete_texts(request: Request, body: CompletionRequest) -> Response:
    """Go on from one prompt or several, without any chat format."""
    service: Service = request.app.state.service
    job = await run_beside_loop(request, functools.partial(_build_job, service, body))
    return await send_answers(service, request, job)


def _build_job(service: Service, body: CompletionRequest) -> AnswerJob:
    served = service.find_model(body.model)
    check_stream_options(body)
    n = body.n or 1
    if n * len(body.prompts) > MAX_ANSWERS:
        raise build_invalid_error(
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
    return AnswerJob(body, requests, served, TextShape(), n)
