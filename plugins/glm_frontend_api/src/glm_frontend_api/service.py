"""What all routes share: the model, its names, the limits, the metrics."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from glm_core import ChatModel

from .config import ApiConfig
from .errors import ApiError
from .limits import Capacity
from .metrics import Metrics
from .token_signal import TokenSignal

DEFAULT_MODEL = "default"


@dataclass(frozen=True)
class ServedModel:
    """What a request's ``model`` stands for.

    Attributes:
        name: its full name, as responses give it.
        adapter: ``None`` = the base model.
    """

    name: str
    adapter: str | None


class Abortable(Protocol):
    """What runs here and can be ended from outside: a `Generation`, which knows the service."""

    def abort(self) -> None:
        """End it with an error."""


class Service:
    """One served model. Must be built where the event loop runs, or before it does.

    Attributes:
        started: Unix time of the start.
        answers: places for answers.
        posts: places for requests with a body.
        generations: those that run.
        draining: whether the server finishes what runs and takes nothing new.
        token_signal: announces every token of any answer.
        changing_adapters: held while an adapter is loaded or removed.
    """

    def __init__(self, model: ChatModel, config: ApiConfig) -> None:
        self.model = model
        self.config = config
        self.started = int(time.time())
        self.answers = Capacity(config.max_requests)
        self.posts = Capacity(config.max_requests)
        self.generations: set[Abortable] = set()
        self.draining = False
        self.token_signal = TokenSignal()
        self.metrics = Metrics(model, self.answers)
        self.name = config.served_model_name or shorten_model_name(model.info.name)
        self.changing_adapters = asyncio.Lock()
        adapters = model.info.adapters
        self._default_adapter = adapters[0] if len(adapters) == 1 else None

    def join_name(self, adapter: str) -> str:
        """Return what clients call the model with an adapter."""
        return f"{self.name}:{adapter}"

    def list_models(self) -> Iterator[ServedModel]:
        """Yield the base model and one for each adapter."""
        yield ServedModel(self.name, None)
        for adapter in self.model.info.adapters:
            yield ServedModel(self.join_name(adapter), adapter)

    def find_default_model(self) -> ServedModel:
        """Return the model of ``default`` and of the original's route.

        That is the only adapter of the start, while it is loaded, or else the base model. Adapters that are
        loaded later change nothing: clients that know no adapters would get other answers all at once.
        """
        adapter = self._default_adapter
        if adapter is None or adapter not in self.model.info.adapters:
            return ServedModel(self.name, None)
        return ServedModel(self.join_name(adapter), adapter)

    def find_model(self, name: str) -> ServedModel:
        """Return the model that a request names: ``default``, a full name, or an adapter's bare name.

        Raises:
            ApiError: 404, listing the known names.
        """
        if name == DEFAULT_MODEL:
            return self.find_default_model()
        served = list(self.list_models())
        found = next((model for model in served if model.name == name), None)
        found = found or next((model for model in served if model.adapter == name), None)
        if found is None:
            raise self.build_not_found_error(name)
        return found

    def build_not_found_error(self, name: str) -> ApiError:
        """Return the error 404, listing the known names."""
        there = ", ".join(model.name for model in self.list_models())
        return ApiError(
            404,
            f"the model {name[:80]!r} is not served here; there are: {there}",
            "model_not_found",
            param="model",
        )

    def begin_draining(self) -> None:
        """Take nothing new from here on."""
        self.draining = True

    def is_idle(self) -> bool:
        """Return whether no request with a body is being answered."""
        return not self.posts.taken

    def abort(self) -> None:
        """End all that runs with an error."""
        for generation in tuple(self.generations):
            generation.abort()


def shorten_model_name(name: str) -> str:
    """Return what clients call a model: its name, or for a directory only the last part of its path."""
    if re.match(r"[./~\\]|[A-Za-z]:\\", name):
        return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name
    return name
