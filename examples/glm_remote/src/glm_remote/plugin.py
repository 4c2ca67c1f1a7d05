"""The hooks: a runtime, and the device that its models are on."""

from __future__ import annotations

from collections.abc import Iterator

from glm_core import ChatRequest, Delta, hookimpl, records

GLM_API_VERSION = 1


@hookimpl
def describe_backend() -> records.BackendInfo:
    """One device, which nobody gets without asking for it by name."""
    device = records.DeviceInfo("remote", "remote", "a server elsewhere")
    return records.BackendInfo("remote", (device,), priority=-2)


@hookimpl
def describe_models() -> tuple[records.ModelCard, ...]:
    """The name in front of an address: ``remote:http://host:8000/v1``."""
    return (records.ModelCard("remote", "a model behind a server: --device remote --model remote:URL"),)


@hookimpl
def load_model(source: records.ModelSource) -> records.LoadedModel | None:
    """Ask the server what it serves; anything but ``remote:URL`` is declined."""
    if source.name.partition(":")[0] != "remote" or source.path is not None or source.model is not None:
        return None
    from ._model import RemoteModel  # here, so that start-up does not pay for http.client

    return RemoteModel(source)


@hookimpl
def place(model: object, placement: records.Placement) -> records.LoadedModel | None:
    """The model stays where it is."""
    from ._model import RemoteModel

    return model.placed(placement.devices) if isinstance(model, RemoteModel) else None


@hookimpl
def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta] | None:
    """Ask the server; closing the stream closes the connection."""
    from ._model import RemoteModel

    return model.stream(request) if isinstance(model, RemoteModel) else None
