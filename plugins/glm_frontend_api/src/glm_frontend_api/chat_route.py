"""``POST /v1/chat/completions``."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from glm_core import ChatRequest, Message, ToolCall
from glm_core.conversation import dump_message

from .bodies import JsonRoute, run_beside_loop
from .documentation import ANSWERS, describe_stream
from .errors import build_invalid_error
from .messages import check_tools_supported, read_messages, read_tool_choice, read_tools
from .openai_answers import AnswerJob, Choice, add_seeds, check_stream_options, read_sampling, send_answers
from .responses import ChatCompletionResponse
from .schemas import ChatCompletionRequest
from .service import Service

router = APIRouter(route_class=JsonRoute)


class ChatShape:
    """Chat answers."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def build_first(self) -> Choice:
        """Return the role, which comes before any text."""
        return {"delta": {"role": "assistant", "content": ""}}

    def build_piece(self, text: str) -> Choice:
        """Return a piece of the text."""
        return {"delta": {"content": text}}

    def build_last(self) -> Choice:
        """Return no more text."""
        return {"delta": {}}

    def build_whole(self, text: str, calls: Sequence[ToolCall]) -> Choice:
        """Return the message."""
        return {"message": dump_message(Message("assistant", text, tuple(calls)))}


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: describe_stream(ChatCompletionResponse), **ANSWERS},
    summary="Answer a conversation",
)
async def chat_completions(request: Request, body: ChatCompletionRequest) -> Response:
    """Answer the last user's message, or go on after the results of tools."""
    service: Service = request.app.state.service
    job = await run_beside_loop(request, functools.partial(_build_job, service, body))
    return await send_answers(service, request, job)


def _build_job(service: Service, body: ChatCompletionRequest) -> AnswerJob:
    served = service.find_model(body.model)
    check_stream_options(body)
    check_tools_supported(service, body)
    chat = ChatRequest(
        messages=read_messages(body),
        sampling=read_sampling(body, service.config, _read_max_tokens(body)),
        adapter=served.adapter,
        stop=body.stops,
        tools=read_tools(body),
        tool_choice=read_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )
    return AnswerJob(body, tuple(add_seeds(chat, body)), served, ChatShape(), body.n or 1)


def _read_max_tokens(body: ChatCompletionRequest) -> int | None:
    both = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(both) > 1:
        raise build_invalid_error(
            f"max_tokens is {body.max_tokens} and "
            f"max_completion_tokens {body.max_completion_tokens}; send one",
            "max_tokens",
        )
    return body.max_tokens or body.max_completion_tokens
