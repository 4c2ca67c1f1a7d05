"""From what the user wants to a model that chats: names, runtimes, devices and stages put together.

What is cheap to refuse (an unknown device or runtime) is refused before anything is downloaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ._not_set import NOT_SET, NotSet
from .chat_model import ChatModel
from .config import Settings, load_settings
from .descriptions import DeviceInfo
from .device_map import DeviceMap, check_entries, list_mapped_devices
from .errors import ConfigError, ModelNotFoundError
from .isolation import format_value
from .jobs import QuantizationScheme
from .models import find_adapter_directory, resolve, verify_files
from .pairing import Identification, Notify, check_wishes, identify
from .plugins import PluginHost, get_default_host
from .records import LoadedModel, ModelSource
from .stages import choose_scheme, load_identified, open_identified
from .survey import Survey, take_survey

_log = logging.getLogger("glm")


def load(
    model: str | os.PathLike[str] | NotSet = NOT_SET,
    *,
    runtime: str | NotSet = NOT_SET,
    device: str | NotSet = NOT_SET,
    dtype: str | NotSet = NOT_SET,
    quantize: str | NotSet = NOT_SET,
    adapters: Mapping[str, str | Path] | None = None,
    revision: str | NotSet | None = NOT_SET,
    offline: bool | NotSet = NOT_SET,
    verify: bool | NotSet = NOT_SET,
    slots: int | NotSet | None = NOT_SET,
    context_length: int | NotSet | None = NOT_SET,
    kv_memory: float | NotSet | None = NOT_SET,
    kernels: str | NotSet | None = NOT_SET,
    device_map: DeviceMap | NotSet | None = NOT_SET,
) -> ChatModel:
    """Load a model and return it ready to chat.

    What is left out is as the environment and the settings file say, see ``docs/configuration.md``.

    Args:
        model: a directory, a known name such as ``"chatglm-6b"`` or ``"demo"``, or a hub id.
        runtime: ``"auto"``, or the name of the runtime that shall load it.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:0,1"``, ``"mps"``, or a plugin's own.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        quantize: ``"none"``, ``"int8"``, ``"int4"``, or another scheme that the backend offers.
        adapters: adapter name to its directory.
        revision: branch, tag or commit on the hub.
        offline: never touch the network.
        verify: compare the hashes of all files first.
        slots: requests to answer at the same time.
        context_length: tokens that one request may use.
        kv_memory: gigabytes that the KV cache may take.
        kernels: which of the backend's kernels compute.
        device_map: module name to device name or number, to split a model by hand.

    Raises:
        GlmError: the model, device, plugin or a file is not there or not right; see `glm_core.errors`.
    """
    # Every argument but two is a setting of the same name.
    wishes = {name: value for name, value in locals().items() if name not in ("adapters", "device_map")}
    settings = load_settings(wishes)
    return open_model(get_default_host(), settings, adapters=adapters, device_map=device_map)


def resolve_model(
    name: str | os.PathLike[str] = "demo", *, revision: str | None = None, offline: bool = False
) -> Path:
    """Return the directory that a model's name stands for; download it if it is a hub id.

    Raises:
        ModelNotFoundError: nothing answers to the name, or the model has no files.
        HubError: the download failed.
    """
    settings = load_settings({"model": name, "revision": revision, "offline": offline or None})
    path = resolve_settings(get_default_host(), settings).path
    if path is None:
        raise ModelNotFoundError(f"model {settings.model!r} has no files on this machine")
    return path


def open_model(
    host: PluginHost,
    settings: Settings,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    device_map: DeviceMap | NotSet | None = NOT_SET,
    notify: Notify = _log.info,
) -> ChatModel:
    """Resolve the model's name, choose runtime and devices, and take the model through all stages.

    ``notify`` is told in one line each what ``auto`` chose and why; the rest is as for `load`.
    """
    device_map = NOT_SET if device_map in (None, NOT_SET) else check_entries("device_map", device_map)
    if device_map and settings.device == "auto":
        settings = replace(settings, device=list_mapped_devices(device_map))
    if adapters is not None and not isinstance(adapters, Mapping):
        raise ConfigError(f"adapters must map names to directories, got {format_value(adapters)}")
    directories = {name: find_adapter_directory(name, path) for name, path in (adapters or {}).items()}
    survey = take_survey(host)
    identification = _identify_by_name(survey, settings, directories, notify)
    return open_identified(survey, identification, settings, device_map=device_map, notify=notify)


def open_for_training(
    host: PluginHost, settings: Settings, *, notify: Notify = _log.info
) -> tuple[LoadedModel, tuple[DeviceInfo, ...], str, QuantizationScheme | None]:
    """Return what the ``train`` hook is called with: a model not yet read, devices, dtype, scheme."""
    survey = take_survey(host)
    identification = _identify_by_name(survey, settings, {}, notify)
    route, dtype, model = load_identified(survey, identification, settings, notify)
    return model, route.devices, dtype, choose_scheme(route.placer, settings.quantize)


def adopt_model(
    host: PluginHost,
    model: Any,
    tokenizer: Any,
    *,
    settings: Settings | None = None,
    notify: Notify = _log.info,
) -> ChatModel:
    """Return a model that the caller has in memory as a `ChatModel`, sharing its weights where they are.

    By default, it stays on its own ``device``; ``notify`` as for `open_model`.

    Raises:
        CheckpointError: no runtime knows the object.
        DeviceError: nothing that is installed places such models on the device.
    """
    wishes = settings or Settings(device=str(getattr(model, "device", "auto")))
    name = str(getattr(model, "name_or_path", "")) or type(model).__name__
    survey = take_survey(host)
    check_wishes(survey, wishes.runtime, wishes.device)
    source = ModelSource(name, model=model, tokenizer=tokenizer)
    return open_identified(survey, identify(survey, source, wishes.runtime), wishes, notify=notify)


def resolve_settings(host: PluginHost, settings: Settings) -> ModelSource:
    """Find, or download, the model that the settings name."""
    return resolve(
        host, settings.model, revision=settings.revision or None, offline=settings.offline, hub=settings.hub
    )


def _identify_by_name(
    survey: Survey, settings: Settings, adapters: Mapping[str, Path], notify: Notify
) -> Identification:
    """Check what is cheap, find the model's files, and ask the runtimes whose it is."""
    check_wishes(survey, settings.runtime, settings.device)
    survey.find_runtime(settings.runtime)  # that there is none at all is to be known before a download too
    source = replace(resolve_settings(survey.host, settings), adapters=adapters)
    for sentence in verify_files(source) if settings.verify else ():
        notify(sentence)
    return identify(survey, source, settings.runtime)
