"""What all routes share: the model, its names, the limits, the metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from glm_core import ChatModel

from .config import ApiConfig
from .errors import ApiError
from .generation import Generation, Pulse
from .limits import Capacity
from .metrics import Metrics

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


class Service:
    """One served model. Must be built where the event loop runs, or before it does.

    Attributes:
        started: Unix time of the start.
        answers: places for answers.
        posts: places for requests with a body.
        generations: those that run.
        draining: whether the server finishes what runs and takes nothing new.
        pulse: beats with every token of any answer.
    """

    def __init__(self, model: ChatModel, config: ApiConfig) -> None:
        self.model = model
        self.config = config
        self.started = int(time.time())
        self.answers = Capacity(config.max_requests)
        self.posts = Capacity(config.max_requests)
        self.generations: set[Generation] = set()
        self.draining = False
        self.pulse = Pulse()
        self.metrics = Metrics(model, self.answers)
        self.name = config.served_model_name or served_name(model.info.name)

    def models(self) -> Iterator[ServedModel]:
        """The base model and one for each adapter."""
        yield ServedModel(self.name, None)
        for adapter in self.model.info.adapters:
            yield ServedModel(f"{self.name}:{adapter}", adapter)

    def default_model(self) -> ServedModel:
        """What ``default`` and the original's route use: the only adapter, else the base model."""
        served = list(self.models())
        return served[1] if len(served) == 2 else served[0]

    def find_model(self, name: str) -> ServedModel:
        """The model of a request.

        Raises:
            ApiError: 404, naming those that there are.
        """
        if name == DEFAULT_MODEL:
            return self.default_model()
        served = {model.name: model for model in self.models()}
        if name in served:
            return served[name]
        there = ", ".join(served)
        raise ApiError(
            404,
            f"the model {name[:80]!r} is not served here; there are: {there}",
            "model_not_found",
            param="model",
        )

    def abort(self) -> None:
        """End all that runs with an error."""
        for generation in tuple(self.generations):
            generation.abort()


def served_name(name: str) -> str:
    """What clients call a model: its name, or for a directory only the last part of its path."""
    if re.match(r"[./~\\]|[A-Za-z]:\\", name):
        return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name
    return name
