"""Which runtime takes a model and which plugin places it: runtimes say what is theirs, backends which kinds.

A match of a runtime pairs with the runtime itself, on devices of its own, and with every backend
that names the match's kind. Which of the pairs is taken, `glm_core._device_choice` decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ._device_choice import ModelRoute, find_best_routes, make_candidate, require_one
from .descriptions import BackendInfo
from .errors import CheckpointError, DeviceError, GlmError, PluginError
from .isolation import divert_output, end_sentence, format_value, make_promise_error
from .records import ModelMatch, ModelSource
from .survey import Placer, Survey

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Identification:
    """The answers of the runtimes that were asked about one source.

    Those that are neither in ``matches`` nor in ``failures`` do not know it; ``named_runtime`` is the
    plugin that ``--runtime`` names.
    """

    source: ModelSource
    asked: tuple[str, ...]
    matches: Mapping[str, ModelMatch]
    failures: Mapping[str, GlmError]
    named_runtime: str | None = None

    def drop_runtime(self, runtime: str, error: GlmError | None = None) -> Identification:
        """Return a copy in which a runtime that turned out not to take the model knows it not."""
        matches = {plugin: match for plugin, match in self.matches.items() if plugin != runtime}
        failures = self.failures if error is None else {**self.failures, runtime: error}
        return replace(self, matches=matches, failures=failures)

    def explain_refusal(self, runtime: str) -> str:
        """Return why a runtime that was asked does not take the model."""
        if runtime in self.failures:
            return str(self.failures[runtime])
        return f"does not know it: {describe_source(self.source)}"


def identify(survey: Survey, source: ModelSource, runtime: str = "auto") -> Identification:
    """Ask every runtime whether a model is its own, or only the one of that name.

    Raises:
        ConfigError: no runtime has that name.
        PluginError: no runtime is installed.
    """
    named = survey.find_runtime(runtime)
    asked = tuple(survey.runtimes) if named is None else (named,)
    matches: dict[str, ModelMatch] = {}
    failures: dict[str, GlmError] = {}
    for plugin in asked:
        try:
            with divert_output():
                match = survey.host.call(plugin, "identify_model", source=source)
            if match is not None and not isinstance(match, ModelMatch):
                what = f"identify_model returned {format_value(match)}, which is no ModelMatch"
                raise make_promise_error(plugin, what)
        except GlmError as error:
            failures[plugin] = error
        else:
            if match is not None:
                matches[plugin] = match
    return Identification(source, asked, matches, failures, named)


def list_placers(survey: Survey, runtime: str, match: ModelMatch) -> Iterator[Placer]:
    """Yield the plugins that can place a model of a runtime."""
    for placer in survey.placers:
        kinds = placer.info.kinds if isinstance(placer.info, BackendInfo) else ()
        if match.kind in kinds or placer.info is survey.runtimes[runtime]:
            yield placer


def check_wishes(survey: Survey, runtime: str, device: str) -> list[ModelRoute]:
    """Refuse what is wrong whatever the model is, before anything is downloaded; return what would be best.

    Raises:
        DeviceError: nothing that is installed knows the device, or it is not available.
        ConfigError: no runtime has that name.
        PluginError: no runtime is installed.
    """
    if not any(survey.placers) and not survey.backends:
        raise _make_no_backend_error(survey)
    named = survey.find_runtime(runtime) if survey.runtimes or runtime != "auto" else None
    others = {plugin for plugin in survey.runtimes if named not in (None, plugin)}
    candidates = [
        make_candidate(survey, placer)
        for placer in survey.placers
        if (placer.info.kinds if isinstance(placer.info, BackendInfo) else placer.plugin not in others)
    ]
    return find_best_routes(survey, candidates, device, named_runtime=named)


def choose_route(
    survey: Survey, identification: Identification, device: str, notify: Notify = lambda line: None
) -> ModelRoute:
    """Choose runtime, placer and devices; notify of what ``auto`` chose and of runtimes that failed.

    Raises:
        CheckpointError: no runtime knows the model, or the only one that does finds it damaged.
        DeviceError: what can place the model has no such device.
        ConfigError: two choices are equal in everything.
    """
    if not identification.matches:
        raise _make_unrecognised_error(survey, identification)
    for runtime, error in identification.failures.items():
        notify(f"runtime {runtime} cannot take this model and is passed over: {error}")
    candidates = [
        make_candidate(survey, placer, runtime)
        for runtime, match in identification.matches.items()
        for placer in list_placers(survey, runtime, match)
    ]
    if not any(candidate.devices for candidate in candidates):
        raise _make_no_device_error(survey, identification)
    routes = find_best_routes(survey, candidates, device, named_runtime=identification.named_runtime)
    route = require_one(survey, routes)
    if device == "auto":
        notify(route.explain())
    return route


def _make_unrecognised_error(survey: Survey, identification: Identification) -> GlmError:
    source, failures = identification.source, list(identification.failures.values())
    if len(failures) == 1 and (len(identification.asked) == 1 or not isinstance(failures[0], PluginError)):
        return failures[0]  # it would be that runtime's; a fault of a plugin says nothing about the model
    runtimes = ", ".join(identification.asked)
    if identification.named_runtime is not None:
        who = f"runtime {runtimes} does not recognise"
        advice = "Leave --runtime out, or choose another --model."
    else:
        reasons = "".join(f" {error}" for error in failures)
        who, advice = "no installed runtime recognises", f"Installed runtimes: {runtimes}.{reasons}"
    what = f"{source.path or source.name}: {describe_source(source)}"
    return CheckpointError(f"{end_sentence(f'{who} {what}')} {advice}{survey.host.describe_unused()}")


def _make_no_device_error(survey: Survey, identification: Identification) -> DeviceError:
    if not any(survey.placers):
        return _make_no_backend_error(survey)
    found = ", ".join(
        f"runtime {plugin} (kind {match.kind!r})" for plugin, match in identification.matches.items()
    )
    return DeviceError(
        f"{identification.source.name} is a model of {found}, and no installed backend names this kind"
        f"{survey.host.describe_unused()}"
    )


def _make_no_backend_error(survey: Survey) -> DeviceError:
    return DeviceError(
        "no hardware backend is installed: pip install glm-backend-cpu (or glm-backend-cuda for NVIDIA, "
        f"glm-backend-mps for Apple GPUs){survey.host.describe_unused()}"
    )


def describe_source(source: ModelSource) -> str:
    """Return what a source is, for a message about it."""
    if source.model is not None:
        return f"a {type(source.model).__name__} in memory is none of its models"
    if source.path is None:
        return "it is not a directory"
    if source.path.is_file():
        return "it is a file; if it is one of several, pass the directory that holds them"
    config = source.path / "config.json"
    if not os.path.isfile(config):  # unlike Path.is_file, this is also False in a folder that may not be read
        return "it holds no config.json; pass the directory that holds the model's files"
    try:
        content: Any = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # unreadable, no JSON, or nested too deeply
        return f"its config.json cannot be read ({error})"
    kind = content.get("model_type") if isinstance(content, dict) else None
    return f"its config.json says model_type {kind!r}"
