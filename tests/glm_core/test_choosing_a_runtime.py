"""Tests of how core pairs runtimes, backends and devices for one model, whatever the plugins are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_plugins import FakeModel, backend, loader, plugin
from glm_testing import make_host
from key_words import containing

from glm_core import CheckpointError, ConfigError, DeviceError, PluginError
from glm_core._device_choice import ModelRoute, require_one
from glm_core.config import Settings
from glm_core.pairing import check_wishes, choose_route, identify
from glm_core.plugins import Candidate, PluginHost
from glm_core.records import BackendInfo, DeviceInfo, ModelMatch, ModelSource, RuntimeInfo
from glm_core.routing import open_model
from glm_core.survey import take_survey

CPU = DeviceInfo("cpu", "cpu", "a processor")
VLLM = DeviceInfo("vllm", "vllm", "an engine")
SOURCE = ModelSource("x")


def device_runtime(
    name: str,
    *devices: DeviceInfo,
    kind: str = "own",
    priority: int = 0,
    model: Any = None,
    identify_model: Any = None,
) -> ModuleType:
    """A runtime that knows every model and places it on devices of its own."""
    info = RuntimeInfo(name, "for tests", devices, priority)
    loaded = FakeModel() if model is None else model
    return plugin(
        describe_runtime=lambda: info,
        identify_model=identify_model or (lambda: ModelMatch(kind, "it takes everything")),
        load_model=lambda: loaded,
        place=lambda model: model,
        chat_stream=lambda: None,
    )


def route_of(host: PluginHost, device: str = "auto", runtime: str = "auto", told: Any = None) -> ModelRoute:
    """The route that the choice comes to."""
    survey = take_survey(host)
    return choose_route(survey, identify(survey, SOURCE, runtime), device, told or (lambda line: None))


def torch_and(second: str, **fields: Any) -> PluginHost:
    """A runtime ``torch`` with a backend for the CPU, and a runtime ``vllm`` whose plugin has that name."""
    return make_host(
        **{
            "backend_cpu": backend(CPU),
            "runtime_torch": device_runtime("torch", kind="fake"),
            second: device_runtime("vllm", VLLM, **fields),
        }
    )


@pytest.mark.parametrize("name", ["runtime_vllm", "engine_vllm", "a", "zz"])
@pytest.mark.parametrize("priority", [-1, 1])
def test_names_of_plugins_decide_nothing(name: str, priority: int) -> None:
    """Before and after the other in the alphabet, a second runtime is chosen by priority, device and name."""
    host = torch_and(name, priority=priority)
    by_priority = route_of(host)
    assert (by_priority.runtime, by_priority.devices) == (
        (name, (VLLM,)) if priority > 0 else ("runtime_torch", (CPU,))
    )
    for route in (
        route_of(host, device="vllm"),
        route_of(host, runtime="vllm"),
        route_of(host, runtime=name),
    ):
        assert (route.runtime, route.placer.plugin, route.devices) == (name, name, (VLLM,))
    for route in (route_of(host, device="cpu"), route_of(host, runtime="torch")):
        assert (route.runtime, route.placer.plugin, route.devices) == ("runtime_torch", "backend_cpu", (CPU,))


@pytest.mark.parametrize("name", ["a", "zz"])
def test_equal_choices_are_an_error_that_names_both(name: str) -> None:
    """The alphabet does not decide; ``--runtime`` does."""
    host = torch_and(name, priority=0)
    with pytest.raises(ConfigError) as caught:
        route_of(host)
    assert "--runtime torch" in str(caught.value)
    assert "--runtime vllm" in str(caught.value)


def test_runtimes_that_share_a_backend_are_chosen_by_their_own_priority() -> None:
    """Where places are equal, the runtime's priority counts; where that is equal too, nothing does."""
    first = device_runtime("first", kind="fake")
    host = make_host(b=backend(CPU), r1=first, r2=device_runtime("second", kind="fake", priority=1))
    assert route_of(host).runtime == "r2"
    with pytest.raises(ConfigError, match="--runtime first or --runtime third"):
        route_of(make_host(b=backend(CPU), r1=first, r2=device_runtime("third", kind="fake")))


def follow_advice(message: str) -> tuple[str, list[list[str]]]:
    """The option or variable that a message says to use, and the values that it offers, split at commas."""
    for option in ("--runtime ", "--device ", "GLM_DISABLE_PLUGINS="):
        if found := re.findall(rf"{option}([\w:,]+)", message):
            return option.strip(" ="), [value.split(",") for value in found]
    raise AssertionError(f"no advice: {message}")


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("make", ["backends", "backends_of_other_devices", "runtimes", "mixed"])
def test_advice_on_equal_choices_is_complete(make: str, number: int) -> None:
    """Whoever follows it once has decided, however many plugins are equal and whatever they bring."""
    names = [f"p{index}" for index in range(number)]
    modules: dict[str, ModuleType] = {}
    for index, name in enumerate(names):
        own = make == "runtimes" or (make == "mixed" and index % 2)
        device = CPU if make != "backends_of_other_devices" else DeviceInfo(f"d{index}", f"d{index}", "")
        modules[name] = device_runtime(name, device, kind="fake") if own else backend(device)
    if make.startswith("backends"):
        modules["r"] = device_runtime("r", kind="fake")

    def choose(device: str = "auto", runtime: str = "auto", disabled: Sequence[str] = ()) -> ModelRoute:
        kept = {name: module for name, module in modules.items() if name not in disabled}
        return route_of(make_host(**kept), device, runtime)

    with pytest.raises(ConfigError) as caught:
        choose()
    option, values = follow_advice(str(caught.value))
    for value in values:
        if option == "--runtime":
            assert choose(runtime=value[0]).runtime == value[0]
        elif option == "--device":
            assert choose(device=value[0]).devices[0].name == value[0]
        else:
            choose(disabled=value)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_advice_without_a_model_is_complete(number: int) -> None:
    """``glm devices`` and ``glm doctor`` say how to choose among runtimes that bring the same device."""
    modules = {f"p{index}": device_runtime(f"p{index}", CPU) for index in range(number)}
    with pytest.raises(ConfigError) as caught:
        require_one(survey := take_survey(make_host(**modules)), check_wishes(survey, "auto", "auto"))
    option, values = follow_advice(str(caught.value))
    assert (option, [name for (name,) in values]) == ("--runtime", list(modules))


def ours_and_another() -> PluginHost:
    """This project's CUDA backend with a runtime on it, and a runtime that brings CUDA devices itself."""
    card = DeviceInfo("cuda:0", "cuda", "our view")
    theirs = DeviceInfo("cuda:0", "cuda", "their view")
    modules = {
        "glm-other": device_runtime("other", theirs, priority=500),
        "glm-backend-cuda": backend(card, priority=100),
        "glm-runtime-torch": device_runtime("torch", kind="fake"),
    }
    return PluginHost(
        Candidate(name.removeprefix("glm-").replace("-", "_"), name, "1", lambda module=module: module)  # type: ignore[misc]
        for name, module in modules.items()
    )


def test_a_device_type_of_ours_is_taken_by_nobody_else_unasked() -> None:
    """Another's ``cuda`` devices are reached by ``--runtime``, not by a higher priority."""
    host = ours_and_another()
    for device in ("auto", "cuda", "cuda:0"):
        assert route_of(host, device).placer.plugin == "backend_cuda"
        assert route_of(host, device, runtime="other").placer.plugin == "other"


def test_devices_of_its_own_serve_where_ours_cannot_place_the_model() -> None:
    """A type belongs to our package only for models that our backend places."""
    host = ours_and_another()
    survey = take_survey(host)
    identification = identify(survey, SOURCE).drop_runtime("runtime_torch")
    assert choose_route(survey, identification, "cuda").placer.plugin == "other"


def test_backend_is_not_asked_about_kinds_that_it_does_not_name() -> None:
    """A device that cannot carry the model is refused with those that can."""
    host = make_host(backend_cpu=backend(CPU), r=device_runtime("vllm", VLLM))
    assert route_of(host).devices == (VLLM,)
    with pytest.raises(DeviceError, match="'cpu' cannot run this model; choose one of: vllm"):
        route_of(host, "cpu")
    with pytest.raises(DeviceError, match=containing("'cpu'", "--runtime vllm", "choose one of")):
        route_of(host, "cpu", runtime="vllm")


def test_devices_that_belong_to_ours_are_not_called_unseen() -> None:
    """A backend is told which names its devices have, not that it sees none."""
    card = DeviceInfo("cuda:0", "cuda", "their view")
    info = BackendInfo("mycuda", (card,), kinds=("fake",))
    host = PluginHost(
        [
            Candidate("backend_cuda", "glm-backend-cuda", "1", lambda: backend(card)),
            Candidate(
                "mine", "glm-mine", "1", lambda: plugin(describe_backend=lambda: info, place=lambda: None)
            ),
            Candidate("r", "glm-r", "1", lambda: loader(FakeModel)),
        ]
    )
    with pytest.raises(DeviceError, match=containing("'mycuda'", "cuda:0", "choose")):
        route_of(host, "mycuda")


def test_fault_of_one_runtime_is_not_the_reason_that_nobody_knows_the_model() -> None:
    """A wrong directory is called one, beside the runtime that broke down."""
    host = make_host(
        b=backend(CPU),
        bad=device_runtime("bad", VLLM, identify_model=lambda: 1 / 0),
        r=loader(FakeModel, lambda: None),
    )
    with pytest.raises(CheckpointError, match="no installed runtime recognises x: .*ZeroDivisionError"):
        route_of(host)


def test_device_that_is_passed_over_is_named_once() -> None:
    """Also where two runtimes could have used it."""
    absent = DeviceInfo("gpu", "gpu", "", available=False, reason="no driver")
    told: list[str] = []
    better = device_runtime("better", kind="fake", priority=1)
    host = make_host(b=backend(CPU), g=backend(absent, priority=9), r1=better, r2=loader(FakeModel))
    route_of(host, told=told.append)
    assert told == ["device auto: cpu (a processor; gpu: no driver)"]


def test_runtime_that_does_not_place_its_own_model_is_named_alone() -> None:
    """There is no other plugin to blame."""
    info = RuntimeInfo("own", "", (VLLM,))
    lazy = loader(lambda: FakeModel())
    own = plugin(
        describe_runtime=lambda: info,
        identify_model=lazy.identify_model,
        load_model=lazy.load_model,
        place=lambda: None,
    )
    with pytest.raises(PluginError, match=containing("runtime 'own'", "device 'vllm'")):
        open_model(make_host(own=own), Settings(model=str(Path(__file__).parent)))


def test_model_that_nothing_can_place_says_so() -> None:
    """A runtime without a backend for its kind is named with the kind."""
    with pytest.raises(DeviceError, match="runtime r .*'unknown'"):
        route_of(make_host(b=backend(CPU), r=device_runtime("r", kind="unknown")))


@pytest.mark.parametrize("error", [OSError("no library"), CheckpointError("damaged")])
def test_runtime_that_fails_to_look_is_named_and_the_next_is_asked(error: Exception) -> None:
    """One bad runtime breaks no model of another's."""

    def fail() -> None:
        raise error

    told: list[str] = []
    host = make_host(b=backend(CPU), a=device_runtime("a", VLLM, identify_model=fail), r=loader(FakeModel))
    assert route_of(host, told=told.append).runtime == "r"
    assert any("runtime a " in line and str(error) in line for line in told)
    with pytest.raises((PluginError, CheckpointError), match=str(error)):
        route_of(make_host(b=backend(CPU), a=device_runtime("a", VLLM, identify_model=fail)))


def test_runtime_that_fails_to_load_is_named_and_the_next_is_asked(tmp_path: Path) -> None:
    """A breakdown is not the end where another runtime knows the model too."""
    told: list[str] = []
    info = RuntimeInfo("breaks", "", (VLLM,), priority=9)
    breaks = loader(lambda: 1 / 0)
    breaks.describe_runtime = lambda: info  # type: ignore[attr-defined]
    bad = plugin(
        describe_runtime=lambda: info,
        identify_model=breaks.identify_model,
        load_model=breaks.load_model,
        place=lambda model: model,
    )
    host = make_host(b=backend(CPU), bad=bad, good=loader(lambda: FakeModel()))
    with open_model(host, Settings(model=str(tmp_path)), notify=told.append) as model:
        assert model.info.name == "fake"
    assert any("runtime bad " in line and "ZeroDivisionError" in line for line in told)


@pytest.mark.parametrize(("wanted", "there"), [("nope", "auto, torch, vllm"), ("", "auto, torch, vllm")])
def test_unknown_runtime_is_refused_with_the_names_before_anything_is_resolved(
    wanted: str, there: str
) -> None:
    """A cheap error comes before a download."""
    settings = Settings(model="some/model", runtime=wanted, offline=True)
    with pytest.raises(ConfigError, match=f"choose one of: {there}"):
        open_model(torch_and("r"), settings)


def test_no_runtime_at_all_is_said_before_any_download() -> None:
    """With what to install."""
    with pytest.raises(PluginError, match="pip install glm-backend-cpu"):
        open_model(make_host(b=backend(CPU)), Settings(model="some/model", offline=True))


def test_runtimes_of_one_name_are_chosen_by_plugin() -> None:
    """Two plugins may call theirs alike; their own names are unique."""
    host = make_host(p1=device_runtime("same", VLLM), p2=device_runtime("same", CPU), b=backend(CPU))
    with pytest.raises(ConfigError, match="p1, p2"):
        route_of(host, runtime="same")
    assert route_of(host, runtime="p1").devices == (VLLM,)


def test_named_runtime_that_does_not_know_the_model_says_so() -> None:
    """The others are not asked then."""
    host = make_host(
        b=backend(CPU), mine=loader(FakeModel), other=device_runtime("other", identify_model=lambda: None)
    )
    with pytest.raises(CheckpointError, match=containing("recognise", "--runtime")):
        route_of(host, runtime="other")


def test_answer_that_is_no_match_names_the_plugin() -> None:
    """A wrong answer is found where it is given."""
    host = make_host(b=backend(CPU), r=loader(FakeModel, identify_model=lambda: "torch"))
    with pytest.raises(PluginError, match="'r': identify_model returned 'torch'"):
        route_of(host)


def test_descriptions_are_asked_once_for_each_model_and_anew_for_the_next(tmp_path: Path) -> None:
    """One survey serves all decisions; the next model sees memory as it is then."""
    asked: list[str] = []
    free: list[int] = [100]

    def describe_backend() -> BackendInfo:
        asked.append("backend")
        device = DeviceInfo("cpu", "cpu", "a processor", memory_bytes=200, free_memory_bytes=free[0])
        return BackendInfo("b", (device,), kinds=("fake",))

    def describe_runtime() -> RuntimeInfo:
        asked.append("runtime")
        return RuntimeInfo("r")

    host = make_host(
        b=plugin(describe_backend=describe_backend, place=lambda model: model),
        r=plugin(
            describe_runtime=describe_runtime,
            identify_model=lambda: ModelMatch("fake", "yes"),
            load_model=lambda: FakeModel(),
        ),
    )
    open_model(host, Settings(model=str(tmp_path)))
    assert sorted(asked) == ["backend", "runtime"]
    free[0] = 50
    assert take_survey(host).backends["b"].devices[0].free_memory_bytes == 50


def test_runtime_without_the_new_hooks_is_refused_with_their_names() -> None:
    """A runtime that can never be chosen is reported when it is loaded."""
    (report,) = make_host(r=plugin(load_model=lambda source: None)).reports
    assert report.status == "broken"
    assert "describe_runtime and identify_model" in report.reason
