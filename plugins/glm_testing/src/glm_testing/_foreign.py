"""Make models and sources that belong to no plugin, to see whether one claims them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm_core.jobs import PredictJob, QuantizationScheme, QuantizeJob, TrainJob
from glm_core.records import ChatRequest, Message, ModelInfo, ModelSource, Placement, Sampling


class ForeignModel:
    """A model of a runtime that does not exist."""

    def __init__(self) -> None:
        self.info = ModelInfo("foreign", "foreign", 0, 16, Sampling())

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""


def make_foreign_sources(folder: Path) -> dict[str, ModelSource]:
    """Return sources that no runtime knows, by what they are.

    Args:
        folder: an empty directory to write them into.
    """
    empty, unknown = folder / "empty", folder / "unknown"
    empty.mkdir()
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "of_the_conformance_kit"}), "utf-8")
    return {
        "an unknown name": ModelSource("no model of this name"),
        "an empty directory": ModelSource("empty", empty),
        "a directory of an unknown model_type": ModelSource("unknown", unknown),
        "an unknown object in memory": ModelSource("object", model=ForeignModel(), tokenizer=object()),
    }


def make_foreign_calls(folder: Path, device: str) -> Mapping[str, Mapping[str, Any]]:
    """Return, for each hook that is handed a model, arguments with another runtime's model.

    Args:
        folder: where jobs would write.
        device: one of the plugin's own.
    """
    model = ForeignModel()
    return {
        "quantize": {"model": model, "scheme": QuantizationScheme(8)},
        "place": {"model": model, "placement": Placement((device,))},
        "chat_stream": {"model": model, "request": ChatRequest((Message("user", "hello"),))},
        "train": {"model": model, "job": TrainJob("any", folder / "train")},
        "predict": {"model": model, "job": PredictJob("any", folder / "predict")},
        "quantize_checkpoint": {
            "source": ModelSource("empty", folder),
            "job": QuantizeJob(folder / "copy", QuantizationScheme(8)),
        },
    }
