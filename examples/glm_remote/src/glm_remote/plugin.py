"""The hooks: a runtime that places its models itself, on a device of its own."""

from __future__ import annotations

from collections.abc import Iterator

from glm_core import ChatRequest, Delta, hookimpl, records

GLM_API_VERSION = 2


@hookimpl
def describe_runtime() -> records.RuntimeInfo:
    """Describe the one device, on which alone its models can be."""
    device = records.DeviceInfo("remote", "remote", "a server elsewhere")
    return records.RuntimeInfo("remote", "models behind a server", (device,), priority=-2)


@hookimpl
def describe_models() -> tuple[records.ModelCard, ...]:
    """Return the name in front of an address: ``remote:http://host:8000/v1``."""
    return (records.ModelCard("remote", "a model behind a server: --model remote:URL"),)


@hookimpl
def identify_model(source: records.ModelSource) -> records.ModelMatch | None:
    """Know ``remote:URL`` and nothing else; the server is not asked yet."""
    if source.name.partition(":")[0] != "remote" or source.path is not None or source.model is not None:
        return None
    return records.ModelMatch("remote", "its name begins with remote:")


@hookimpl
def load_model(source: records.ModelSource) -> records.LoadedModel:
    """Ask the server what it serves."""
    from ._model import RemoteModel  # here, so that start-up does not pay for http.client

    return RemoteModel(source)


@hookimpl
def place(model: object, placement: records.Placement) -> records.LoadedModel | None:
    """Leave the model where it is."""
    from ._model import RemoteModel

    return model.note_devices(placement.devices) if isinstance(model, RemoteModel) else None


@hookimpl
def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta] | None:
    """Ask the server; closing the stream closes the connection."""
    from ._model import RemoteModel

    return model.stream(request) if isinstance(model, RemoteModel) else None
