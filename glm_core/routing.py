"""From settings to a running model: which device, which dtype, which plugin for each stage."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ._conflicts import OWNERS, without_others_devices
from ._isolation import plugin_errors, safe_repr
from .chat_model import ChatModel
from .config import Settings, load_settings
from .errors import CheckpointError, DeviceError, ModelNotFoundError, PluginError
from .models import Resolved, adapter_directory, resolve
from .plugins import PluginHost, default_host
from .records import (
    BackendInfo,
    DeviceInfo,
    LoadedModel,
    ModelSource,
    Placement,
    QuantizationScheme,
)

Notify = Callable[[str], None]

_log = logging.getLogger("glm")
_DEVICE_PACKAGES = OWNERS["device"]


def load(
    model: str | os.PathLike[str] = "demo",
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "none",
    adapters: Mapping[str, str | Path] | None = None,
    revision: str | None = None,
    offline: bool = False,
    slots: int | None = None,
    context_length: int | None = None,
    kv_memory: float | None = None,
    kernels: str | None = None,
) -> ChatModel:
    """Load a model and return it ready to chat.

    Args:
        model: a directory, a known name such as ``"chatglm-6b"`` or ``"demo"``, or a hub id.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:0,1"``, ``"mps"``, or a plugin's own.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        quantize: ``"none"``, ``"int8"``, ``"int4"``, or another scheme that the backend offers.
        adapters: adapter name to its directory.
        revision: branch, tag or commit on the hub.
        offline: never touch the network.
        slots: requests to answer at the same time; ``None`` = the setting, as many as suit the device.
        context_length: tokens that one request may use; ``None`` = the setting, what the model was
            made for.
        kv_memory: gigabytes that the KV cache may take; ``None`` = the setting, what suits the device.
        kernels: which of the backend's kernels compute; ``None`` = the setting, its own choice.

    Raises:
        GlmError: the model, device, plugin or a file is not there or not right; see `glm_core.errors`.
    """
    name = os.fspath(model)
    overrides = {"model": name, "device": device, "dtype": dtype, "quantize": quantize, "revision": revision}
    room = {"slots": slots, "context_length": context_length, "kv_memory": kv_memory, "kernels": kernels}
    settings = load_settings({**overrides, **room, "offline": offline or None})
    return open_model(default_host(), settings, adapters=adapters)


def resolve_model(
    name: str | os.PathLike[str] = "demo", *, revision: str | None = None, offline: bool = False
) -> Path:
    """The directory that a model's name stands for; downloads it if it is a hub id.

    Raises:
        ModelNotFoundError: nothing answers to the name, or the model has no files.
        HubError: the download failed.
    """
    settings = load_settings({"model": os.fspath(name), "revision": revision, "offline": offline or None})
    path = _resolve(default_host(), settings).path
    if path is None:
        raise ModelNotFoundError(f"model {settings.model!r} has no files on this machine")
    return path


def open_model(
    host: PluginHost,
    settings: Settings,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    notify: Notify = _log.info,
) -> ChatModel:
    """Resolve the model's name, choose a device, and take the model through all stages.

    Args:
        host: the plugins.
        settings: what the user wants.
        adapters: adapter name to its directory.
        notify: told in one line each what ``auto`` chose and why.
    """
    backend, devices = choose_devices(host, settings.device, notify)
    resolved = _resolve(host, settings)
    source = ModelSource(resolved.name, resolved.path, _directories(adapters or {}))
    return run_stages(host, source, backend, devices, settings, notify=notify)


def open_for_training(
    host: PluginHost, settings: Settings, *, notify: Notify = _log.info
) -> tuple[LoadedModel, tuple[DeviceInfo, ...], str, QuantizationScheme | None]:
    """What the ``train`` hook is called with: a model whose weights are not read, devices, dtype, scheme.

    Args:
        host: the plugins.
        settings: what the user wants.
        notify: as for `open_model`.
    """
    backend, devices = choose_devices(host, settings.device, notify)
    scheme = choose_scheme(host, backend, settings.quantize)
    dtype = choose_dtype(settings.dtype, devices[0], notify)
    resolved = _resolve(host, settings)
    _, model = _load(host, ModelSource(resolved.name, resolved.path), devices[0].name, dtype)
    return model, devices, dtype, scheme


def adopt_model(host: PluginHost, model: Any, tokenizer: Any, *, notify: Notify = _log.info) -> ChatModel:
    """A model that the caller has in memory as a `ChatModel`, sharing its weights, on the device where it is.

    Args:
        host: the plugins.
        model: an object that an installed runtime knows, with a ``device``.
        tokenizer: the tokenizer that belongs to it.
        notify: as for `open_model`.

    Raises:
        CheckpointError: no runtime knows the object.
    """
    settings = Settings(device=str(getattr(model, "device", "auto")))
    backend, devices = choose_devices(host, settings.device, notify)
    name = str(getattr(model, "name_or_path", "")) or type(model).__name__
    source = ModelSource(name, model=model, tokenizer=tokenizer)
    return run_stages(host, source, backend, devices, settings, notify=notify)


def run_stages(
    host: PluginHost,
    source: ModelSource,
    backend: str,
    devices: tuple[DeviceInfo, ...],
    settings: Settings,
    *,
    device_map: Mapping[str, str] | None = None,
    notify: Notify = _log.info,
) -> ChatModel:
    """Take a source through ``load_model``, ``quantize`` and ``place``; closes the model if one fails."""
    scheme = choose_scheme(host, backend, settings.quantize)
    dtype = choose_dtype(settings.dtype, devices[0], notify)
    placement = Placement(
        tuple(device.name for device in devices),
        device_map,
        slots=settings.slots,
        context_length=settings.context_length,
        kv_memory_bytes=int(settings.kv_memory * 1e9),
        kernels=_kernels(host, backend, settings.kernels),
        notify=notify,
    )
    runtime, model = _load(host, source, devices[0].name, dtype)
    try:
        if scheme is not None:
            model = _advance(host, backend, "quantize", runtime, model=model, scheme=scheme)
        placed = _advance(host, backend, "place", runtime, model=model, placement=placement)
    except BaseException:  # an interrupt too must not leave a model in memory
        model.close()
        raise
    return ChatModel(host, runtime, placed)


def describe_backends(host: PluginHost) -> dict[str, BackendInfo]:
    """Every backend's description, by plugin name."""
    return without_others_devices(host, host.describe("describe_backend", BackendInfo))


def choose_devices(host: PluginHost, wanted: str, notify: Notify) -> tuple[str, tuple[DeviceInfo, ...]]:
    """The backend plugin and the devices that ``--device`` means.

    Raises:
        DeviceError: no backend knows the device, or it is not available; says what is.
    """
    backends = describe_backends(host)
    if not backends:
        raise DeviceError(
            "no hardware backend is installed: pip install glm-backend-cpu, or glm-backend-cuda or "
            f"glm-backend-mps{host.unused()}"
        )
    ranked = sorted(backends.items(), key=lambda item: -item[1].priority)  # equal ones stay sorted by name
    if wanted == "auto":
        return _choose_automatically(ranked, notify)
    kind, _, indices = wanted.partition(":")
    refusals: list[DeviceError] = []
    for plugin, backend in ranked:
        of_kind = tuple(device for device in backend.devices if device.type == kind)
        if of_kind:
            try:
                return plugin, _pick(wanted, of_kind, indices)
            except DeviceError as error:  # another backend may offer the same kind of device
                refusals.append(error)
    if refusals:
        raise refusals[0]
    there = (
        ", ".join(device.name for _, backend in ranked for device in backend.devices if device.available)
        or "none"
    )
    if any(backend.name == kind for _, backend in ranked):
        raise DeviceError(f"device {wanted!r}: its backend sees no such device; choose one of: {there}")
    if kind in _DEVICE_PACKAGES:
        raise DeviceError(
            f"device {wanted!r} needs a backend that is not installed: pip install {_DEVICE_PACKAGES[kind]}, "
            f"or choose one of: {there}{host.unused()}"
        )
    raise DeviceError(f"device {wanted!r} is unknown; choose one of: auto, {there}{host.unused()}")


def choose_dtype(wanted: str, device: DeviceInfo, notify: Notify) -> str:
    """Resolve ``auto`` to the dtype that the device's backend recommends."""
    if wanted == "auto":
        reason = f" ({device.dtype_reason})" if device.dtype_reason else ""
        notify(f"dtype auto: {device.dtypes[0]}{reason}")
        return device.dtypes[0]
    if wanted not in device.dtypes:
        raise DeviceError(
            f"device {device.name} cannot compute in {wanted}; choose one of: {', '.join(device.dtypes)}"
        )
    return wanted


def _resolve(host: PluginHost, settings: Settings) -> Resolved:
    return resolve(
        host, settings.model, revision=settings.revision, offline=settings.offline, hub=settings.hub
    )


def _directories(adapters: Mapping[str, str | Path]) -> dict[str, Path]:
    return {name: adapter_directory(name, path) for name, path in adapters.items()}


def _choose_automatically(
    ranked: Sequence[tuple[str, BackendInfo]], notify: Notify
) -> tuple[str, tuple[DeviceInfo, ...]]:
    passed_over: list[DeviceInfo] = []
    for plugin, backend in ranked:
        for device in backend.devices:
            if device.available:
                # Why, without what to do about it: nobody asked for those.
                reasons = [f"{each.name}: {each.reason.partition(';')[0]}" for each in passed_over]
                notify(f"device auto: {device.name} ({'; '.join([device.label, *reasons])})")
                return plugin, (device,)
            passed_over.append(device)
    reasons = [f"{device.name}: {device.reason}" for device in passed_over]
    raise DeviceError(f"no device is available: {'; '.join(reasons) or 'the backends see none'}")


def _pick(wanted: str, devices: tuple[DeviceInfo, ...], indices: str) -> tuple[DeviceInfo, ...]:
    by_name = {device.name: device for device in devices}
    kind = devices[0].type
    if indices:
        names = [f"{kind}:{index.strip()}" for index in indices.split(",")]
    else:
        names = [next((device.name for device in devices if device.available), devices[0].name)]
    if len(set(names)) != len(names):
        raise DeviceError(f"device {wanted!r} names the same device twice")
    if names == [f"{kind}:0"] and kind in by_name:
        names = [kind]  # torch's spelling of a device that has no number: cpu:0, mps:0
    if not any(device.available for device in devices) and not set(names) <= set(by_name):
        raise DeviceError(f"device {wanted!r} is not available: {devices[0].reason}")
    for name in names:
        if name not in by_name:
            raise DeviceError(f"device {name!r} does not exist; there are: {', '.join(by_name)}")
        if not by_name[name].available:
            raise DeviceError(f"device {name!r} is not available: {by_name[name].reason}")
    return tuple(by_name[name] for name in names)


def _load(host: PluginHost, source: ModelSource, device: str, dtype: str) -> tuple[str, LoadedModel]:
    runtimes = host.answering("load_model")
    for runtime in runtimes:
        model = host.call(runtime, "load_model", source=source, device=device, dtype=dtype)
        if model is not None:
            return runtime, _checked(runtime, "load_model", model)
    if not runtimes:
        raise PluginError(
            f"no installed plugin can load models; install one: pip install glm-runtime-torch{host.unused()}"
        )
    raise CheckpointError(
        f"no installed runtime recognises {source.path or source.name}: {_what_is_there(source)}. "
        f"Installed runtimes: {', '.join(runtimes)}.{host.unused()}"
    )


def _advance(host: PluginHost, backend: str, hook: str, runtime: str, **arguments: Any) -> LoadedModel:
    model = host.call(backend, hook, **arguments)
    if model is None:
        instead = "leave --quantize out" if hook == "quantize" else "choose another --device"
        raise PluginError(f"backend {backend!r} cannot {hook} models of runtime {runtime!r}; {instead}")
    return _checked(backend, hook, model)


def _checked(plugin: str, hook: str, model: Any) -> LoadedModel:
    with plugin_errors(plugin, hook):
        right = callable(getattr(model, "close", None)) and hasattr(model, "info")
    if not right:
        raise PluginError(
            f"plugin {plugin!r}: {hook} returned {safe_repr(model)}, which has no info and close(); "
            "report this to its author"
        )
    loaded: LoadedModel = model
    return loaded


def _what_is_there(source: ModelSource) -> str:
    if source.model is not None:
        return f"a {type(source.model).__name__} in memory is none of its models"
    if source.path is None:
        return "it is not a directory"
    config = source.path / "config.json"
    if not config.is_file():
        return "it holds no config.json; pass the directory that holds the model's files"
    try:
        content: Any = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        return f"its config.json cannot be read ({error})"
    kind = content.get("model_type") if isinstance(content, dict) else None
    return f"its config.json says model_type {kind!r}"


def choose_scheme(host: PluginHost, backend: str, name: str) -> QuantizationScheme | None:
    """The scheme that ``--quantize`` means; ``None`` for ``none``.

    Raises:
        DeviceError: the backend does not offer it; says what it offers.
    """
    if name == "none":
        return None
    offered = describe_backends(host)[backend].schemes
    if name not in offered:
        there = ", ".join(offered) or "nothing yet"
        raise DeviceError(
            f"backend {backend!r} cannot quantise to {name}; it offers: {there}. "
            "Choose one of these, or leave --quantize out."
        )
    return QuantizationScheme.parse(name)


def _kernels(host: PluginHost, backend: str, name: str) -> str:
    offered = describe_backends(host)[backend].kernels
    if name != "auto" and name not in offered:
        raise DeviceError(
            f"backend {backend!r} has no kernels {name!r}; it offers: {', '.join(('auto', *offered))}"
        )
    return name
