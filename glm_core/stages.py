"""The stages that a model goes through on its route: load, quantise, place."""

from __future__ import annotations

from typing import Any

from ._device_choice import ModelRoute
from ._not_set import NOT_SET, NotSet
from .chat_model import ChatModel
from .config import Settings
from .descriptions import DeviceInfo
from .device_map import DeviceMap, check_device_map
from .errors import DeviceError, PluginError
from .isolation import format_value, make_promise_error, wrap_plugin_errors
from .jobs import QuantizationScheme
from .pairing import Identification, Notify, choose_route
from .records import LoadedModel, Placement
from .survey import Placer, Survey


def open_identified(
    survey: Survey,
    identification: Identification,
    settings: Settings,
    *,
    device_map: DeviceMap | NotSet = NOT_SET,
    notify: Notify,
) -> ChatModel:
    """Take a model that was identified through all stages; close it if one fails."""
    route, _, model = load_identified(survey, identification, settings, notify, device_map=device_map)
    try:
        scheme = choose_scheme(route.placer, settings.quantize)
        if scheme is not None:
            model = _call_stage(survey, route, "quantize", model=model, scheme=scheme)
        placement = Placement(
            tuple(device.name for device in route.devices),
            device_map,
            slots=settings.slots,
            context_length=settings.context_length,
            kv_memory_bytes=int(settings.kv_memory * 1e9) if settings.kv_memory else NOT_SET,
            kernels=choose_kernels(route.placer, settings.kernels),
            notify=notify,
        )
        placed = _call_stage(survey, route, "place", model=model, placement=placement)
    except BaseException:  # an interrupt too must not leave a model in memory
        model.close()
        raise
    return ChatModel(survey.host, route.runtime, placed, placer=route.placer.plugin)


def load_identified(
    survey: Survey,
    identification: Identification,
    settings: Settings,
    notify: Notify,
    *,
    device_map: DeviceMap | NotSet = NOT_SET,
) -> tuple[ModelRoute, str, LoadedModel]:
    """Choose a route and a dtype and load the model; pass over a runtime that fails or declines after all.

    What a plugin raises for the user (a damaged checkpoint) ends the search, because the runtime knew the
    model; another runtime would only hide the fault.
    """
    while True:
        route = choose_route(survey, identification, settings.device, notify)
        choose_scheme(route.placer, settings.quantize)  # here too: nothing is loaded only to be refused
        choose_kernels(route.placer, settings.kernels)
        if device_map is not NOT_SET:
            check_device_map(device_map, route.devices)
        dtype = choose_dtype(settings.dtype, route.devices[0], notify)
        failure = None
        try:
            model = survey.host.call(
                route.runtime,
                "load_model",
                source=identification.source,
                device=route.devices[0].name,
                dtype=dtype,
            )
            if model is not None:
                return route, dtype, _check_model(route.runtime, "load_model", model)
        except PluginError as error:
            if len(identification.matches) == 1:
                raise
            failure = error
        identification = identification.drop_runtime(route.runtime, failure)


def choose_dtype(wanted: str, device: DeviceInfo, notify: Notify) -> str:
    """Resolve ``auto`` to the dtype that is recommended for the device.

    Raises:
        DeviceError: the device cannot compute in the dtype; says in which it can.
    """
    if wanted == "auto":
        reason = f" ({device.dtype_reason})" if device.dtype_reason else ""
        notify(f"dtype auto: {device.dtypes[0]}{reason}")
        return device.dtypes[0]
    if wanted not in device.dtypes:
        raise DeviceError(
            f"device {device.name} cannot compute in {wanted}; choose one of: {', '.join(device.dtypes)}"
        )
    return wanted


def choose_scheme(placer: Placer, name: str) -> QuantizationScheme | None:
    """Return the scheme that ``--quantize`` means; ``None`` for ``none``.

    Raises:
        DeviceError: the placer does not offer it; says what it offers.
    """
    if name == "none":
        return None
    if name not in placer.info.schemes:
        there = ", ".join(placer.info.schemes)
        offer = f"it offers: {there}. Choose one of these, or" if there else "it offers no scheme;"
        raise DeviceError(f"{placer} cannot quantise to {name}; {offer} leave --quantize out.")
    return QuantizationScheme.parse(name)


def choose_kernels(placer: Placer, name: str) -> str:
    """Return what ``--kernels`` says, once it is known to be offered.

    Raises:
        DeviceError: the placer does not offer them; says what it offers.
    """
    if name != "auto" and name not in placer.info.kernels:
        offered = ", ".join(("auto", *placer.info.kernels))
        raise DeviceError(f"{placer} has no kernels {name!r}; it offers: {offered}")
    return name


def _call_stage(survey: Survey, route: ModelRoute, hook: str, **arguments: Any) -> LoadedModel:
    plugin = route.placer.plugin
    model = survey.host.call(plugin, hook, **arguments)
    if model is None:
        instead = "leave --quantize out" if hook == "quantize" else "choose another --device or --runtime"
        what = f"this model, although it names the kind that it is for runtime {route.runtime!r}"
        if plugin == route.runtime:  # there is nobody else to blame
            what = f"its own model on its own device {route.devices[0].name!r}"
        raise PluginError(f"{route.placer} cannot {hook} {what}; {instead}, and report this to the author")
    return _check_model(plugin, hook, model)


def _check_model(plugin: str, hook: str, model: Any) -> LoadedModel:
    with wrap_plugin_errors(plugin, hook):
        is_model = callable(getattr(model, "close", None)) and hasattr(model, "info")
    if not is_model:
        raise make_promise_error(
            plugin, f"{hook} returned {format_value(model)}, which has no info and close()"
        )
    loaded: LoadedModel = model
    return loaded
