"""The promise of the running batch, on the real backend: company changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from glm_backend_cpu._native import get_native

import glm_core
from glm_core import ChatModel, ChatRequest, Message, Sampling

QUESTIONS = ("你好", "How do I quantise a model?", "怎么安装？", "What is P-Tuning v2?", "讲个笑话", "hi")


def requests() -> list[ChatRequest]:
    """Requests of different lengths and seeds, hot enough that the smallest difference would show."""
    return [
        ChatRequest(
            (Message("user", QUESTIONS[number % len(QUESTIONS)]),),
            Sampling(max_new_tokens=8 + 3 * number, temperature=2.0, top_k=0, top_p=0.98, do_sample=True),
            seed=number,
        )
        for number in range(18)
    ]


def tokens(model: ChatModel, request: ChatRequest, limit: int | None = None) -> list[int]:
    """The tokens of an answer, or its first ones, after which it is cancelled."""
    found: list[int] = []
    with model.stream(request) as deltas:
        for delta in deltas:
            found += delta.token_ids
            if limit is not None and len(found) >= limit:
                break
    return found


def together(model: ChatModel, limits: Sequence[int | None]) -> list[list[int]]:
    """All requests at the same time, some cancelled after a while."""
    answers: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n, r=r: answers.update({n: tokens(model, r, limits[n])}))
        for n, r in enumerate(requests())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(threads))]


@pytest.mark.skipif(get_native() is None, reason="torch's own kernels round a row by the size of its batch")
@pytest.mark.parametrize("quantize", ["none", "int8", "int4-g32"])
def test_eighteen_requests_get_what_each_gets_alone(quantize: str) -> None:
    """In a batch that fills, empties and is cancelled from, every answer has the very tokens it has alone."""
    with glm_core.load("demo", device="cpu", quantize=quantize, slots=7) as model:
        alone = [tokens(model, request) for request in requests()]
        limits = [None if number % 3 else 5 for number in range(len(alone))]
        for answer, expected, limit in zip(together(model, limits), alone, limits, strict=True):
            assert answer[:limit] == expected[:limit]
            assert limit is not None or len(answer) == len(expected)
        assert len({tuple(answer) for answer in alone}) > 12
