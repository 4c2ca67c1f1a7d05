"""From a checked request to OpenAI's response, whole or as a stream; shared by chat and completions."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import JSONResponse, Response

from glm_core import ChatRequest, Delta, Sampling, ToolCall
from glm_core.records import ToolCallDelta, join_calls

from .config import ApiConfig
from .errors import build_invalid_error
from .event_stream import COMMENT, DONE, EventStream, encode_event, run_for_client
from .generation import Generation, Piece
from .schemas import MAX_SEED, GenerationRequest
from .service import ServedModel, Service

Choice = dict[str, Any]
MIN_TEMPERATURE = 1e-4


class AnswerShape(Protocol):
    """What chat and completions do not share."""

    prefix: str
    """Of ids."""
    whole_object: str
    chunk_object: str

    def build_first(self) -> Choice | None:
        """Return the fields of an answer's first chunk, if there is one before any text."""

    def build_piece(self, text: str) -> Choice:
        """Return the fields of a chunk with text."""

    def build_last(self) -> Choice:
        """Return the fields of the chunk that has the finish reason."""

    def build_whole(self, text: str, calls: Sequence[ToolCall]) -> Choice:
        """Return the fields of a whole answer."""


@dataclasses.dataclass(frozen=True)
class AnswerJob:
    """A request to be answered.

    Attributes:
        body: what the client sent.
        requests: what to ask the model, ``n`` for each prompt.
        served: the model.
        shape: chat or completion.
        n: answers for each prompt.
    """

    body: GenerationRequest
    requests: Sequence[ChatRequest]
    served: ServedModel
    shape: AnswerShape
    n: int


async def send_answers(service: Service, request: Request, job: AnswerJob) -> Response:
    """Generate the answers and return the response that sends them.

    Raises:
        ApiError: a limit is reached.
        GlmError: the model refuses or fails.
        ClientGoneError: nobody waits any more.
    """
    generation = Generation(service, job.requests)
    if not job.body.stream:
        async with generation:
            return await run_for_client(request, _answer_whole(generation, job))
    await generation.__aenter__()
    try:
        await run_for_client(request, generation.begin(service.config.header_seconds))
    except BaseException:  # what has begun is cancelled, whatever went wrong
        generation.close()
        raise
    return EventStream(service, generation, _stream_chunks(service.config, generation, job))


def read_sampling(body: GenerationRequest, config: ApiConfig, wanted: int | None) -> Sampling:
    """Return the sampling that a request asks for.

    Args:
        body: the request.
        config: has the limit of tokens.
        wanted: tokens of the answer that the request names.

    Raises:
        ApiError: it wants more tokens than the server allows.
    """
    limit = config.max_tokens
    if limit and wanted is not None and wanted > limit:
        raise build_invalid_error(
            f"max_tokens must be at most {limit}, the limit of this server, got {wanted}", "max_tokens"
        )
    temperature = limit_temperature(body.temperature)
    return Sampling(
        max_new_tokens=wanted or limit or None,
        temperature=temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        # who names a temperature wants sampling, also of a model whose own default is greedy
        do_sample=None if temperature is None else temperature > 0,
    )


def limit_temperature(temperature: float | None) -> float | None:
    """Return a temperature that logits can be divided by: one that is almost 0 becomes 0, which is greedy."""
    return temperature if temperature is None or temperature >= MIN_TEMPERATURE else 0.0


def add_seeds(request: ChatRequest, body: GenerationRequest, first: int = 0) -> Iterator[ChatRequest]:
    """Yield a request for each of the ``n`` answers, with seed, seed + 1 and so on.

    Args:
        request: without a seed.
        body: has ``seed`` and ``n``.
        first: number of the first of these answers.
    """
    for index in range(first, first + (body.n or 1)):
        seed = None if body.seed is None else (body.seed + index) % (MAX_SEED + 1)
        yield dataclasses.replace(request, seed=seed)


def check_stream_options(body: GenerationRequest) -> None:
    """Refuse options of a stream where none is asked for.

    Raises:
        ApiError: 400.
    """
    if body.stream_options is not None and not body.stream:
        raise build_invalid_error(
            "stream_options is for streams; send stream: true as well", "stream_options"
        )


async def _answer_whole(generation: Generation, job: AnswerJob) -> Response:
    texts = [""] * len(job.requests)
    calls: list[list[ToolCallDelta]] = [[] for _ in job.requests]
    reasons: list[str | None] = [None] * len(job.requests)
    async for piece in generation.iterate_pieces():
        if piece is not None:
            texts[piece.index] += piece.delta.text
            calls[piece.index] += piece.delta.tool_calls
            reasons[piece.index] = piece.delta.finish_reason
    choices = [
        {
            "index": index,
            **job.shape.build_whole(text, join_calls(calls[index])),
            "logprobs": None,
            "finish_reason": reason,
        }
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    envelope = _build_envelope(job, job.shape.whole_object)
    content = {**envelope, "choices": choices, "usage": _sum_usage(generation, job)}
    dropped = max(usage.dropped_messages for usage in generation.usages.values())
    if dropped:
        content["dropped_messages"] = dropped
    return JSONResponse(content)


async def _stream_chunks(
    config: ApiConfig, generation: Generation, job: AnswerJob
) -> AsyncGenerator[bytes, None]:
    envelope = _build_envelope(job, job.shape.chunk_object)
    counting = job.body.stream_options is not None and bool(job.body.stream_options.include_usage)

    def chunk(index: int, fields: Choice, delta: Delta | None = None) -> bytes:
        reason = delta.finish_reason if delta else None
        choice = {"index": index, **fields, "logprobs": None, "finish_reason": reason}
        content = {**envelope, "choices": [choice], **({"usage": None} if counting else {})}
        if delta is not None and delta.usage is not None and delta.usage.dropped_messages:
            content["dropped_messages"] = delta.usage.dropped_messages
        return encode_event(content)

    opening = job.shape.build_first()
    if opening is not None:
        for index in range(len(job.requests)):
            yield chunk(index, opening)
    async for piece in generation.iterate_pieces(config.comment_seconds):
        if piece is None or piece.delta.queue_position:
            yield COMMENT
        else:
            for fields, delta in _split_piece(job.shape, piece):
                yield chunk(piece.index, fields, delta)
    if counting:
        yield encode_event({**envelope, "choices": [], "usage": _sum_usage(generation, job)})
    yield DONE


def _split_piece(shape: AnswerShape, piece: Piece) -> Iterator[tuple[Choice, Delta | None]]:
    if piece.delta.text:
        yield shape.build_piece(piece.delta.text), None
    for call in piece.delta.tool_calls:
        for fields in split_call(call):
            yield {"delta": {"tool_calls": [fields]}}, None
    if piece.delta.finish_reason is not None:
        yield shape.build_last(), piece.delta


def split_call(call: ToolCallDelta) -> Iterator[dict[str, Any]]:
    """Yield a piece of a call as clients expect it: first what is called, then its arguments."""
    if call.id:
        function = {"name": call.name, "arguments": ""}
        yield {"index": call.index, "id": call.id, "type": "function", "function": function}
    if call.arguments:
        yield {"index": call.index, "function": {"arguments": call.arguments}}


def _build_envelope(job: AnswerJob, kind: str) -> dict[str, Any]:
    return {
        "id": f"{job.shape.prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": job.served.name,
    }


def _sum_usage(generation: Generation, job: AnswerJob) -> dict[str, Any]:
    """Return the tokens of all answers; a prompt that is answered ``n`` times counts once."""
    usages = generation.usages
    prompts = [usages[index] for index in range(0, len(job.requests), job.n)]
    prompt = sum(usage.prompt_tokens for usage in prompts)
    completion = sum(usage.completion_tokens for usage in usages.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
    }
