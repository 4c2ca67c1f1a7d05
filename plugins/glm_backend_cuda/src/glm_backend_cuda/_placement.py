"""Putting a model of the torch runtime onto one NVIDIA GPU or several."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from glm_runtime_torch.generation.executor import DecodeExecutor, MakeExecutor
from glm_runtime_torch.model.device_map import DeviceMap, map_of
from glm_runtime_torch.model.fitting import fit
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.attention import takes_tensors
from glm_runtime_torch.network.kv_cache import KVCache
from glm_runtime_torch.network.language_model import LanguageModel
from glm_runtime_torch.network.parameters import sharing_copy
from glm_runtime_torch.quantization import TABLE_SCHEME, QuantizedLinear

from glm_core import DeviceError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

from ._choice import Kernels, choose_kernels
from ._executor import CudaGraphs, RecordedExecutor, Recorder

_log = logging.getLogger("glm")

# Of the free memory, what a second form of a borrowed model's weights may take.
SECOND_FORM_SHARE = 0.5


def quantize_for_cuda(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise into the stored form; ``None`` for a model of another runtime.

    Placing the model gives the layers the form that the chosen kernels compute with.
    """
    if not isinstance(model, TorchModel):
        return None
    model.quantize(scheme, embeddings=TABLE_SCHEME)
    return model


def place_on_cuda(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Check that everything fits, read the weights, put the kernels in, start the engine.

    Raises:
        OutOfMemoryError: it does not fit; nothing was read.
        DeviceError: a GPU is absent, or the map or the kernels cannot be used.
        ConfigError: the map does not suit the model.
    """
    if not isinstance(model, TorchModel):
        return None
    devices = [_numbered(name) for name in placement.devices]
    places = settled(model) if model.is_borrowed else None
    if places is not None:
        devices = list(places.devices)
    return place_on(model, placement, free_bytes(devices), places)


def place_on(
    model: TorchModel,
    placement: Placement,
    free: Mapping[torch.device, int],
    places: DeviceMap | None = None,
    recorder: Recorder | None = None,
) -> TorchModel:
    """`place_on_cuda` on devices with so many free bytes; they may be of any type.

    Args:
        model: any.
        placement: what was asked for; its devices are those of ``free``.
        free: device to its free bytes, in order.
        places: where a model stands that cannot be moved.
        recorder: of decode steps; ``None`` = CUDA graphs where the one device is a GPU.
    """
    found = fit(model, free, placement, device_map=placement.device_map or None, places=places)
    placement.notify(found.describe())
    kernels = choose_kernels(placement.kernels, found.places.devices, model.dtype)
    placement.notify(kernels.sentence)
    # One device takes the plain way, without a route.
    single = found.places.devices[0] if len(found.places.devices) == 1 else None
    where = found.places if single is None else single
    if model.is_borrowed:
        borrow(model, free, kernels)
    else:
        model.materialize(where)
        kernels.install(model.network, model.dtype)
    model.start(
        where,
        slots=found.slots,
        context_length=found.context_length,
        attention=kernels.attention,
        executor=_recorded(single, kernels, recorder),
    )
    return model


def borrow(model: TorchModel, free: Mapping[torch.device, int], kernels: Kernels) -> None:
    """Put kernels into a copy of a model's modules: its own layers, which its owner may train, stay.

    The copy shares the weights. Kernels that want int4 in another order hold them twice, so where there is
    no memory for that, the model answers with its own layers.
    """
    model.network = sharing_copy(model.network).eval()
    second = sum(
        layer.weight.nbytes
        for layer in model.network.modules()
        if isinstance(layer, QuantizedLinear) and layer.bits == 4
    )
    if second > SECOND_FORM_SHARE * sum(free.values()):
        _log.warning(
            "kernels: the model's own layers, which are slow; another form of its int4 weights needs "
            "%.1f GB. glm_core.load() and glm run need no second form.",
            second / 1e9,
        )
        return
    kernels.install(model.network, model.dtype)


def settled(model: TorchModel) -> DeviceMap:
    """Where a model stands that somebody else put there.

    Raises:
        DeviceError: a part of it stands on another kind of device.
    """
    places = map_of(model.network)
    strangers = [str(device) for device in places.devices if device.type != "cuda"]
    if strangers:
        raise DeviceError(
            f"a part of the model stands on {', '.join(strangers)} and a part on a GPU; "
            "call .cuda() on all of it."
        )
    return places


def free_bytes(devices: Sequence[torch.device]) -> dict[torch.device, int]:
    """Free memory of GPUs, as their driver says now; what torch holds and does not use counts as free.

    Raises:
        DeviceError: this PyTorch does not see one of them.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in devices:
        if (device.index or 0) >= count:
            raise DeviceError(
                f"this PyTorch sees {count} NVIDIA GPUs, {device} is not among them; "
                "glm devices says which there are."
            )
    found = {}
    for device in devices:
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        found[device] = torch.cuda.mem_get_info(device)[0] + unused
    return found


def _numbered(name: str) -> torch.device:
    device = torch.device(name)
    return torch.device("cuda", 0) if device.index is None else device


def _recorded(
    device: torch.device | None, kernels: Kernels, recorder: Recorder | None
) -> MakeExecutor | None:
    """Recorded steps on one GPU; a step that goes over several is not one recording."""
    if device is None or not takes_tensors(kernels.attention):
        return None
    if recorder is None:
        if device.type != "cuda":
            return None
        recorder = CudaGraphs(device)
    records = recorder

    def make(network: LanguageModel, cache: KVCache) -> DecodeExecutor:
        return RecordedExecutor(network, cache, device, records)

    return make
