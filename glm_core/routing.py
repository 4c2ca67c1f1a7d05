"""From settings to a running model: which device, which dtype, which plugin for each stage."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .chat_model import ChatModel
from .config import Settings, load_settings
from .errors import CheckpointError, ConfigError, DeviceError, PluginError
from .models import resolve
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
_DEVICE_PACKAGES = {"cpu": "glm-backend-cpu", "cuda": "glm-backend-cuda", "mps": "glm-backend-mps"}


def load(
    model: str = "demo",
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "none",
    adapters: Mapping[str, str | Path] | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> ChatModel:
    """Load a model and return it ready to chat.

    Args:
        model: a directory, a known name such as ``"chatglm-6b"`` or ``"demo"``, or a hub id.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:0,1"``, ``"mps"``, or a plugin's own.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        quantize: ``"none"``, ``"int8"`` or ``"int4"``.
        adapters: adapter name to its directory.
        revision: branch, tag or commit on the hub.
        offline: never touch the network.

    Raises:
        GlmError: the model, device, plugin or a file is not there or not right; see `glm_core.errors`.
    """
    overrides = {"model": model, "device": device, "dtype": dtype, "quantize": quantize, "revision": revision}
    settings = load_settings({**overrides, "offline": offline or None})
    return open_model(default_host(), settings, adapters=adapters)


def resolve_model(name: str = "demo", *, revision: str | None = None, offline: bool = False) -> Path:
    """The directory that a model's name stands for; downloads it if it is a hub id.

    Raises:
        ModelNotFoundError: nothing answers to the name, or the model has no files.
        HubError: the download failed.
    """
    settings = load_settings({"model": name, "revision": revision, "offline": offline or None})
    resolved = resolve(default_host(), name, revision=revision, offline=settings.offline, hub=settings.hub)
    if resolved.path is None:
        raise ConfigError(f"model {name!r} has no files on this machine")
    return resolved.path


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
    resolved = resolve(
        host, settings.model, revision=settings.revision, offline=settings.offline, hub=settings.hub
    )
    source = ModelSource(
        resolved.name, resolved.path, {name: Path(path) for name, path in (adapters or {}).items()}
    )
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
    """Take a source through ``load_model``, ``quantize`` and ``place``."""
    dtype = choose_dtype(settings.dtype, devices[0], notify)
    runtime, model = _load(host, source, devices[0].name, dtype)
    try:
        if settings.quantize != "none":
            model = _quantize(host, backend, model, settings.quantize)
        placement = Placement(tuple(device.name for device in devices), device_map)
        placed: LoadedModel | None = host.call(backend, "place", model=model, placement=placement)
    except BaseException:
        model.close()
        raise
    if placed is None:
        model.close()
        raise PluginError(
            f"backend {backend!r} cannot place models of runtime {runtime!r}; choose another --device"
        )
    return ChatModel(host, runtime, placed)


def describe_backends(host: PluginHost) -> dict[str, BackendInfo]:
    """Every backend's description, by plugin name."""
    return host.describe("describe_backend", BackendInfo)


def choose_devices(host: PluginHost, wanted: str, notify: Notify) -> tuple[str, tuple[DeviceInfo, ...]]:
    """The backend plugin and the devices that ``--device`` means.

    Raises:
        DeviceError: no backend knows the device, or it is not available; says what is.
    """
    backends = describe_backends(host)
    if not backends:
        raise DeviceError(
            "no hardware backend is installed; install one of glm-backend-cpu, glm-backend-cuda, glm-backend-mps"
        )
    if wanted == "auto":
        return _choose_automatically(backends, notify)
    kind, _, indices = wanted.partition(":")
    for plugin, backend in backends.items():
        of_kind = tuple(device for device in backend.devices if device.type == kind)
        if of_kind:
            return plugin, _pick(wanted, of_kind, indices)
    there = ", ".join(device.name for backend in backends.values() for device in backend.devices)
    if kind in _DEVICE_PACKAGES:
        raise DeviceError(
            f"device {wanted!r} needs a backend that is not installed: pip install {_DEVICE_PACKAGES[kind]}, "
            f"or choose one of: {there}"
        )
    raise DeviceError(f"device {wanted!r} is unknown; choose one of: auto, {there}")


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


def _choose_automatically(
    backends: Mapping[str, BackendInfo], notify: Notify
) -> tuple[str, tuple[DeviceInfo, ...]]:
    ranked = sorted(backends.items(), key=lambda item: (-item[1].priority, item[0]))
    passed_over: list[str] = []
    for plugin, backend in ranked:
        for device in backend.devices:
            if device.available:
                because = f"; {'; '.join(passed_over)}" if passed_over else ""
                notify(f"device auto: {device.name} ({device.label}{because})")
                return plugin, (device,)
            passed_over.append(f"{device.name}: {device.reason}")
    raise DeviceError(f"no device is available: {'; '.join(passed_over)}")


def _pick(wanted: str, devices: tuple[DeviceInfo, ...], indices: str) -> tuple[DeviceInfo, ...]:
    by_name = {device.name: device for device in devices}
    kind = devices[0].type
    names = [f"{kind}:{index.strip()}" for index in indices.split(",")] if indices else [devices[0].name]
    if len(set(names)) != len(names):
        raise DeviceError(f"device {wanted!r} names the same device twice")
    for name in names:
        if name not in by_name:
            raise DeviceError(f"device {name!r} does not exist; there are: {', '.join(by_name)}")
        if not by_name[name].available:
            raise DeviceError(f"device {name!r} is not available: {by_name[name].reason}")
    return tuple(by_name[name] for name in names)


def _load(host: PluginHost, source: ModelSource, device: str, dtype: str) -> tuple[str, LoadedModel]:
    runtimes = host.answering("load_model")
    for runtime in runtimes:
        model: LoadedModel | None = host.call(
            runtime, "load_model", source=source, device=device, dtype=dtype
        )
        if model is not None:
            return runtime, model
    if not runtimes:
        raise PluginError("no installed plugin can load models; install one: pip install glm-runtime-torch")
    raise CheckpointError(
        f"no installed runtime recognises {source.path or source.name}: {_what_is_there(source)}. "
        f"Installed runtimes: {', '.join(runtimes)}."
    )


def _what_is_there(source: ModelSource) -> str:
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


def _quantize(host: PluginHost, backend: str, model: LoadedModel, name: str) -> LoadedModel:
    scheme = QuantizationScheme(bits=int(name.removeprefix("int")))
    offered = describe_backends(host)[backend].schemes
    if name not in offered:
        raise DeviceError(
            f"backend {backend!r} cannot quantise to {name}; it offers: {', '.join(offered) or 'nothing yet'}. "
            "Leave --quantize out."
        )
    quantized: LoadedModel | None = host.call(backend, "quantize", model=model, scheme=scheme)
    if quantized is None:
        raise PluginError(f"backend {backend!r} cannot quantise this model; leave --quantize out")
    return quantized
