"""The hooks of the llama.cpp runtime, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from glm_core import ChatRequest, Delta, hookimpl
from glm_core.records import DeviceInfo, LoadedModel, ModelMatch, ModelSource, Placement, RuntimeInfo

GLM_API_VERSION = 2
NAME = "llamacpp"


@hookimpl
def describe_runtime() -> RuntimeInfo:
    """Name the runtime and its one device, the processor by way of llama.cpp.

    The device is the runtime's own, because no backend can place what only llama.cpp can read. Its
    priority is below the processor's (0), so that a folder which holds both a checkpoint and a GGUF
    file of it opens as it did before this package was installed.
    """
    # Looking for the package, not importing it: describing must stay cheap.
    installed = find_spec("llama_cpp") is not None
    device = DeviceInfo(
        NAME,
        NAME,
        "llama.cpp on the processor",
        available=installed,
        reason="" if installed else "llama-cpp-python is not installed; pip install llama-cpp-python",
        dtypes=("float32",),
        dtype_reason="what llama.cpp adds up in, whatever the file stores",
    )
    return RuntimeInfo(NAME, "GGUF files in llama.cpp", (device,), priority=-1)


@hookimpl
def identify_model(source: ModelSource) -> ModelMatch | None:
    """Know a GGUF file, or a directory that holds exactly one, by its first bytes."""
    from ._files import find_gguf  # here, as in every hook, so that start-up pays for nothing

    file = find_gguf(source)
    return None if file is None else ModelMatch("gguf", f"{file.name} is a GGUF file")


@hookimpl
def load_model(source: ModelSource) -> LoadedModel | None:
    """Read the file's header and vocabulary; its weights are read by `place`."""
    from ._files import find_gguf

    file = find_gguf(source)
    if file is None:
        return None
    from ._model import GgufModel

    return GgufModel(source, file)


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read the weights and reserve the KV cache."""
    from ._model import GgufModel

    return model.place(placement) if isinstance(model, GgufModel) else None


@hookimpl
def chat_stream(model: LoadedModel, request: ChatRequest) -> Iterator[Delta] | None:
    """Check the request now, answer in a thread, hand out the answer as it is read."""
    from ._model import GgufModel

    return model.stream(request) if isinstance(model, GgufModel) else None
