"""Placing and quantising a model for any backend: what fits, reading weights, kernels, the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from glm_core import OutOfMemoryError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

from ..generation.executor import DecodeExecutor
from ..model.device_map import DeviceMap, resolve_device_map
from ..model.fitting import fit
from ..model.torch_model import TorchModel
from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel
from ..network.parameters import copy_sharing_memory
from ..quantization.network import TABLE_SCHEME
from .installing import borrow_network, install_kernels
from .kernel_set import KernelSet

CPU = torch.device("cpu")
# Of the host's memory that is free once the weights are there, what the KV cache may take. What is not
# written of it takes none; the other half is for what else runs on the machine when it is.
HOST_KV_SHARE = 0.5

ChooseKernels = Callable[[Sequence[torch.device]], KernelSet]


def quantize_model(model: LoadedModel, scheme: QuantizationScheme) -> TorchModel | None:
    """Replace the linear layers of the blocks by quantised ones, each straight from its file.

    The table of embedding and head becomes int8, see `glm_runtime_torch.quantization.network.TABLE_SCHEME`.
    The new layers are the runtime's own over the stored integers, in memory on the processor. Placing the
    model moves them to their device and gives each the form of the chosen kernels: devices and kernels are
    known only there. Of a model that somebody else holds a copy is quantised, its layers stay.

    Returns:
        The same model; ``None`` for one of another runtime.

    Raises:
        CheckpointError: the weights are quantised already.
        ConfigError: the scheme does not suit the model; nothing was changed.
    """
    if not isinstance(model, TorchModel):
        return None
    if model.is_borrowed:
        model.network = copy_sharing_memory(model.network)
    model.quantize(scheme, embeddings=TABLE_SCHEME)
    return model


def place_model(
    model: TorchModel,
    placement: Placement,
    free_bytes: Mapping[torch.device, int],
    kernels: KernelSet | ChooseKernels,
    *,
    places: DeviceMap | None = None,
) -> TorchModel:
    """Place a model on devices with memory of their own and make it ready to answer.

    Finds what fits, says so, reads the weights one matrix at a time straight to their device, puts the
    kernels' layers in and starts the engine. Of a model that somebody else holds nothing is moved: kernels go
    into a copy of its modules over the same weights.

    Args:
        model: quantised or not, not placed yet.
        placement: what the user asked for.
        free_bytes: device to its free memory, in the order in which blocks are dealt out.
        kernels: the backend's, or a function that chooses them for the devices that the model will use.
        places: where a borrowed model is already.

    Raises:
        OutOfMemoryError: it does not fit; nothing was read.
        ConfigError: a device map does not suit the model.
        DeviceError: a device map names other devices.
    """
    found = fit(model, free_bytes, placement, device_map=placement.device_map or None, places=places)
    placement.notify(found.describe())
    devices = found.places.devices
    chosen = kernels if isinstance(kernels, KernelSet) else kernels(devices)
    # One device takes the plain way, without a route.
    place = devices[0] if len(devices) == 1 else found.places
    _put_weights(model, place, chosen, placement, sum(free_bytes.values()))
    _start(
        model,
        place,
        chosen,
        slots=found.slots,
        context_length=found.context_length,
        kv_memory_bytes=placement.kv_memory_bytes or 0,
    )
    return model


def place_in_host_memory(
    model: TorchModel, placement: Placement, kernels: KernelSet, available_bytes: Callable[[], int]
) -> TorchModel:
    """Place a model in the memory of the processor; otherwise as `place_model`.

    Memory that is reserved there and not written is not taken, so weights must fit and the KV cache gets a
    part of what they leave.

    Args:
        model: quantised or not, not placed yet.
        placement: what the user asked for.
        kernels: the backend's.
        available_bytes: returns the memory that is free now.

    Raises:
        OutOfMemoryError: the weights are larger than the memory that is free; nothing was read.
        ConfigError: a device map does not suit the model.
        DeviceError: a device map names other devices.
    """
    if placement.device_map:  # there is one place only, but a wrong name must not go unnoticed
        resolve_device_map(model.parts, placement.device_map, [CPU], CPU.type)
    needed, available = model.count_weight_bytes(unread_only=True), available_bytes()
    if needed > available:
        raise OutOfMemoryError(
            f"{model.info.name} needs {needed / 1e9:.1f} GB for its weights, {available / 1e9:.1f} GB of "
            "memory are free. Add --quantize int8 or int4, or close other programs."
        )
    _put_weights(model, CPU, kernels, placement, available)
    _start(
        model,
        CPU,
        kernels,
        slots=placement.slots or 0,
        context_length=placement.context_length or 0,
        kv_memory_bytes=placement.kv_memory_bytes or int(HOST_KV_SHARE * available_bytes()),
    )
    return model


def _put_weights(
    model: TorchModel,
    place: torch.device | DeviceMap,
    kernels: KernelSet,
    placement: Placement,
    free_bytes: int,
) -> None:
    if kernels.description:
        placement.notify(kernels.description)
    if model.is_borrowed:
        borrow_network(model, kernels, free_bytes)
        return
    model.materialize(place, ())  # nothing yet, but from here on no weight wants a gradient
    install_kernels(model.network, kernels, read=lambda modules: model.materialize(place, modules))
    model.materialize(place)


def _start(
    model: TorchModel,
    place: torch.device | DeviceMap,
    kernels: KernelSet,
    *,
    slots: int,
    context_length: int,
    kv_memory_bytes: int,
) -> None:
    first = place if isinstance(place, torch.device) else next(iter(place.places.values()))

    def make_executor(network: LanguageModel, cache: KVCache) -> DecodeExecutor:
        return kernels.make_executor(network, cache, first)

    model.start(
        place,
        slots=slots,
        context_length=context_length,
        kv_memory_bytes=kv_memory_bytes,
        attention=kernels.decode_attention,
        executor=make_executor,
    )
