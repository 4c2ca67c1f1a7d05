"""What core asks of this plugin: its name and options, and that it trains and predicts."""

from __future__ import annotations

from collections.abc import Iterator

from glm_core import hookimpl
from glm_core.records import (
    LoadedModel,
    PredictJob,
    PredictProgress,
    TrainerInfo,
    TrainJob,
    TrainProgress,
)

from ._predict_options import PREDICT_OPTIONS
from ._train_options import TRAIN_OPTIONS

GLM_API_VERSION = 2


@hookimpl
def describe_trainer() -> TrainerInfo:
    """Describe ``glm train ptuning``."""
    return TrainerInfo(
        "ptuning",
        "P-Tuning v2: trains a prefix, the model itself stays as it is",
        options=TRAIN_OPTIONS,
        predict_options=PREDICT_OPTIONS,
    )


@hookimpl
def train(model: LoadedModel, job: TrainJob) -> Iterator[TrainProgress] | None:
    """Train a prefix, or all weights, of a model of the torch runtime."""
    from ._train import start

    return start(model, job)


@hookimpl
def predict(model: LoadedModel, job: PredictJob) -> Iterator[PredictProgress] | None:
    """Answer and score the rows of a file with a model of the torch runtime."""
    from glm_runtime_torch.training import as_torch_model

    from ._predict import predict

    ours = as_torch_model(model)
    return None if ours is None else predict(ours, job)
