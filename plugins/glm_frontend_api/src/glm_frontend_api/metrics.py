"""What ``/metrics`` shows, in a registry of its own for each server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from glm_core import ChatModel, Usage

from .limits import Capacity

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS_PER_SECOND = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counters of one server.

    Args:
        model: whose load is shown.
        answers: places for answers.
    """

    def __init__(self, model: ChatModel, answers: Capacity) -> None:
        self._model = model
        self._counted_adapters: set[str] = set()
        self._adapters_lock = threading.Lock()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_LoadCollector(model))
        info = model.info
        Info("glm_model", "The model that is served.", registry=registry).info(
            {"name": info.name, "family": info.family}
        )
        running = Gauge("glm_answers", "Answers being generated or waiting for it.", registry=registry)
        running.set_function(lambda: answers.taken)
        self.requests = Counter(
            "glm_http_requests", "HTTP requests by route and status.", ("route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "glm_http_request_seconds",
            "Seconds from a request's head to its answer's end.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "glm_errors", "Refused and failed requests by kind.", ("kind",), registry=registry
        )
        self.disconnects = Counter(
            "glm_disconnects", "Clients that left before the end of their answer.", registry=registry
        )
        self.prompt_tokens = Counter("glm_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.completion_tokens = Counter("glm_completion_tokens", "Tokens of answers.", registry=registry)
        self.adapter_answers = Counter(
            "glm_adapter_answers",
            "Finished answers by adapter; the base model's have an empty one.",
            ("adapter",),
            registry=registry,
        )
        adapters = Gauge("glm_adapters", "Adapters that requests may name.", registry=registry)
        adapters.set_function(lambda: len(model.info.adapters))
        self.queue_seconds = Histogram(
            "glm_queue_seconds", "Seconds waited for a slot.", buckets=_SECONDS, registry=registry
        )
        self.first_token_seconds = Histogram(
            "glm_time_to_first_token_seconds",
            "Seconds from a request to its first token, waiting included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens_per_second = Histogram(
            "glm_tokens_per_second",
            "Decode speed of an answer.",
            buckets=_TOKENS_PER_SECOND,
            registry=registry,
        )

    def count_answer(self, usage: Usage, adapter: str | None) -> None:
        """Count a finished answer; under its adapter only while that is loaded."""
        if adapter is None or adapter in self._model.info.adapters:
            with self._adapters_lock:
                self._counted_adapters.add(adapter or "")
                self.adapter_answers.labels(adapter or "").inc()
        self.forget_removed_adapters()
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.completion_tokens.inc(usage.completion_tokens)
        self.queue_seconds.observe(usage.queue_seconds)
        self.first_token_seconds.observe(usage.time_to_first_token)
        if usage.tokens_per_second:
            self.tokens_per_second.observe(usage.tokens_per_second)

    def forget_removed_adapters(self) -> None:
        """Drop the series of adapters that went; a server whose adapters come and go would grow for ever."""
        # Asked here, and not told by the route that removes them, since a page or a program may do that too.
        with self._adapters_lock:  # rendering has a thread of its own
            for name in self._counted_adapters - {"", *self._model.info.adapters}:
                self._counted_adapters.discard(name)
                self.adapter_answers.remove(name)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format; asks the model how busy it is."""
        self.forget_removed_adapters()
        return generate_latest(self.registry)


class _LoadCollector(Collector):
    """Asks the model how busy it is whenever the metrics are read."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def collect(self) -> Iterator[GaugeMetricFamily]:
        load = self._model.load
        if load is None:  # a runtime need not say
            return
        for name, help_text, value in (
            ("glm_slots", "Sequences that can run at the same time.", load.slots),
            ("glm_slots_active", "Sequences that run now.", load.active),
            ("glm_queue_waiting", "Requests in the model's queue.", load.waiting),
            ("glm_queue_capacity", "Requests that the queue takes.", load.queue_capacity),
            ("glm_kv_tokens", "Positions of the KV cache in use.", load.kv_tokens),
            ("glm_kv_capacity_tokens", "Positions of the KV cache.", load.kv_capacity),
            ("glm_kv_bytes", "Memory reserved for the KV cache.", load.kv_bytes),
        ):
            yield GaugeMetricFamily(name, help_text, value)
