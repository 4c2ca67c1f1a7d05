"""Tests of the way from settings to a running model."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_plugins import FakeModel, backend, choose_devices, host_loading, loader, runtime
from glm_testing import make_host, null_backend
from key_words import containing

import glm_core
from glm_core import AdapterError, CheckpointError, ConfigError, DeviceError, PluginError
from glm_core.config import Settings
from glm_core.pairing import identify
from glm_core.plugins import PluginHost
from glm_core.records import DeviceInfo, ModelSource, Placement, QuantizationScheme
from glm_core.routing import adopt_model, open_for_training, open_model
from glm_core.stages import choose_dtype, open_identified
from glm_core.survey import take_survey

CPU = DeviceInfo("cpu", "cpu", "a processor", dtypes=("bfloat16", "float32"), dtype_reason="it is fast")
GPUS = tuple(DeviceInfo(f"cuda:{index}", "cuda", f"card {index}") for index in range(3))
ABSENT_GPU = DeviceInfo(
    "cuda:0", "cuda", "", available=False, reason="the driver is too old; install a newer one"
)


def ignore(line: str) -> None:
    """Nobody wants to know what ``auto`` chose."""


def devices_of(host: PluginHost, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The backend and the device names that ``wanted`` means."""
    plugin_name, devices = choose_devices(take_survey(host), wanted)
    return plugin_name, tuple(device.name for device in devices)


# --- devices -------------------------------------------------------------------------------------


def test_auto_takes_the_device_of_highest_priority() -> None:
    """Priority decides, and the choice is told with the device's label."""
    told: list[str] = []
    host = make_host(a=backend(CPU), b=backend(*GPUS, priority=10))
    assert choose_devices(take_survey(host), "auto", told.append) == ("b", (GPUS[0],))
    assert told == ["device auto: cuda:0 (card 0)"]


def test_auto_passes_over_what_is_not_available_and_says_why() -> None:
    """A fallback is never silent."""
    told: list[str] = []
    host = make_host(a=backend(CPU), b=backend(ABSENT_GPU, priority=10))
    assert choose_devices(take_survey(host), "auto", told.append) == ("a", (CPU,))
    assert told == ["device auto: cpu (a processor; cuda:0: the driver is too old)"]


def test_equal_priority_is_for_the_user_to_decide() -> None:
    """Neither the alphabet nor chance decides; the message names both devices."""
    other = DeviceInfo("npu", "npu", "")
    with pytest.raises(ConfigError, match="--device cpu or --device npu"):
        devices_of(make_host(z=backend(CPU), a=backend(other)), "auto")


def test_auto_without_an_available_device_lists_the_reasons() -> None:
    """When nothing can be used, the reasons are the message."""
    with pytest.raises(
        DeviceError, match=containing("no device is available", "cuda:0", "the driver is too old")
    ):
        choose_devices(take_survey(make_host(b=backend(ABSENT_GPU))), "auto")
    with pytest.raises(DeviceError, match=containing("no device is available", "see none")):
        choose_devices(take_survey(make_host(b=backend())), "auto")


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("cpu", ("cpu",)),
        ("cpu:0", ("cpu",)),
        ("cuda", ("cuda:0",)),
        ("cuda:", ("cuda:0",)),
        ("cuda:2", ("cuda:2",)),
        ("cuda:2,0", ("cuda:2", "cuda:0")),
        ("cuda: 0, 1", ("cuda:0", "cuda:1")),
    ],
)
def test_device_names_are_understood(wanted: str, names: tuple[str, ...]) -> None:
    """A kind means its first device, numbers mean those devices in that order, cpu:0 is torch's cpu."""
    assert devices_of(make_host(a=backend(CPU), b=backend(*GPUS)), wanted)[1] == names


def test_kind_alone_means_its_first_available_device() -> None:
    """``cuda`` is no particular card, so a busy first one does not stop it."""
    assert devices_of(make_host(b=backend(ABSENT_GPU, GPUS[1])), "cuda") == ("b", ("cuda:1",))


def test_devices_that_are_all_absent_say_why() -> None:
    """Where a kind has no usable device, any number of it is refused with the reason, not as unknown."""
    absent = DeviceInfo("cuda", "cuda", "", available=False, reason="no driver; install one")
    for wanted in ("cuda", "cuda:0", "cuda:0,1", "cuda:3"):
        with pytest.raises(DeviceError, match=containing("not available", "no driver")):
            devices_of(make_host(a=backend(CPU), b=backend(absent)), wanted)


def test_second_backend_of_a_kind_may_have_the_device() -> None:
    """Where one plugin cannot use a device, another that offers it is taken."""
    host = make_host(a=backend(ABSENT_GPU), b=backend(GPUS[0]))
    assert devices_of(host, "cuda:0") == ("b", ("cuda:0",))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("cuda:0", "device 'cuda:0' is not available: the driver is too old"),
        ("cuda", "device 'cuda:0' is not available: the driver is too old"),
        ("cuda:7", "device 'cuda:7' does not exist; there are: cuda:0, cuda:1"),
        ("cuda:1,9", "device 'cuda:9' does not exist; there are: cuda:0, cuda:1"),
        ("cuda:1,1", "device 'cuda:1,1' names the same device twice"),
        ("cuda:x", "device 'cuda:x' does not exist; there are: cuda:0, cuda:1"),
        ("cpu:1", "device 'cpu:1' does not exist; there are: cpu"),
        (
            "mps",
            "device 'mps' needs a backend that is not installed: pip install glm-backend-mps, "
            "or choose one of: cpu, cuda:1",
        ),
        ("tpu", "device 'tpu' is unknown; choose one of: auto, cpu, cuda:1"),
        ("", "device '' is unknown; choose one of: auto, cpu"),
    ],
)
def test_device_that_cannot_be_used_is_refused(wanted: str, message: str) -> None:
    """The message says what there is instead."""
    unavailable = DeviceInfo("cuda:1", "cuda", "", available=False, reason="in use")
    host = make_host(a=backend(CPU), b=backend(ABSENT_GPU, unavailable if wanted == "cuda" else GPUS[1]))
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}"):
        choose_devices(take_survey(host), wanted)


def test_installed_backend_that_sees_nothing_is_not_missing() -> None:
    """Advice to install what is installed would be wrong."""
    with pytest.raises(DeviceError, match=containing("'fake:0'", "backend sees no")):
        choose_devices(take_survey(make_host(a=backend(CPU), b=backend())), "fake:0")


def test_no_backend_at_all_says_what_to_install() -> None:
    """A broken backend is mentioned, so that nobody installs it a second time."""
    with pytest.raises(
        DeviceError,
        match=containing(
            "no hardware backend", "pip install glm-backend-cpu", "glm-backend-cuda", "glm-backend-mps"
        ),
    ):
        choose_devices(take_survey(make_host()), "cpu")
    host = host_loading(lambda: 1 / 0, name="backend_cpu")
    with pytest.raises(DeviceError, match=containing("not used: backend_cpu", "glm plugins")):
        choose_devices(take_survey(host), "cpu")


# --- dtype and quantisation ----------------------------------------------------------------------


def test_auto_dtype_is_the_backends_first_with_its_reason() -> None:
    """What the backend recommends is taken, and told with the reason."""
    told: list[str] = []
    assert choose_dtype("auto", CPU, told.append) == "bfloat16"
    assert choose_dtype("auto", GPUS[0], told.append) == "float32"
    assert told == ["dtype auto: bfloat16 (it is fast)", "dtype auto: float32"]


def test_dtype_that_the_device_lacks_is_refused() -> None:
    """An explicit choice is taken as it is or refused, never changed."""
    assert choose_dtype("float32", CPU, ignore) == "float32"
    with pytest.raises(DeviceError, match=containing("device cpu", "float16", "bfloat16, float32")):
        choose_dtype("float16", CPU, ignore)


def stages(host: PluginHost, settings: Settings = Settings(), **options: Any) -> glm_core.ChatModel:  # noqa: B008
    """All stages for a source that has no files."""
    return open_source(host, ModelSource("x"), settings, **options)


def open_source(
    host: PluginHost, source: ModelSource, settings: Settings, **options: Any
) -> glm_core.ChatModel:
    """Take a source through all stages."""
    survey = take_survey(host)
    identification = identify(survey, source, settings.runtime)
    return open_identified(survey, identification, settings, notify=ignore, **options)


def test_quantisation_that_the_backend_lacks_is_refused_before_loading() -> None:
    """Nothing is loaded only to be refused."""
    host = make_host(b=backend(CPU, schemes=("int8",)), r=loader(lambda: pytest.fail("was loaded")))
    with pytest.raises(DeviceError, match=containing("backend 'b'", "int4", "int8")):
        stages(host, Settings(quantize="int4"))
    host = make_host(b=backend(CPU), r=runtime(FakeModel()))
    with pytest.raises(DeviceError, match="it offers no scheme; leave --quantize out"):
        stages(host, Settings(quantize="int4"))


def test_quantised_model_goes_on_to_place() -> None:
    """``quantize`` gets the scheme, ``place`` what ``quantize`` returned."""
    loaded, quantized = FakeModel(), FakeModel()
    seen: dict[str, Any] = {}

    def quantize(model: object, scheme: object) -> FakeModel:
        seen.update(model=model, scheme=scheme)
        return quantized

    def place(model: object, placement: object) -> object:
        seen.update(placed=model, placement=placement)
        return model

    fake = backend(CPU, schemes=("int8",), quantize=quantize, place=place)
    stages(make_host(b=fake, r=runtime(loaded)), Settings(quantize="int8"), device_map={"layer": "cpu"})
    assert seen == {
        "model": loaded,
        "scheme": QuantizationScheme(8),
        "placed": quantized,
        "placement": Placement(("cpu",), {"layer": "cpu"}),
    }


def test_kernels_are_passed_on_only_if_the_backend_offers_them() -> None:
    """``place`` is told which kernels to use; a name that the backend lacks is refused with those it has."""
    seen: list[str] = []

    def place(model: object, placement: Placement) -> object:
        seen.append(placement.kernels)
        return model

    host = make_host(b=backend(CPU, kernels=("fast", "plain"), place=place), r=runtime(FakeModel()))
    stages(host)
    stages(host, Settings(kernels="plain"))
    assert seen == ["auto", "plain"]
    with pytest.raises(DeviceError, match=containing("backend 'b'", "'quick'", "auto, fast, plain")):
        stages(host, Settings(kernels="quick"))


def test_training_gets_a_model_that_was_neither_quantised_nor_placed(tmp_path: Path) -> None:
    """The trainer is told devices, dtype and scheme, and does both itself."""
    loaded = FakeModel()

    def unasked(model: object) -> object:
        return pytest.fail("was called")

    fake = backend(CPU, schemes=("int8",), quantize=unasked, place=unasked)
    host = make_host(b=fake, r=runtime(loaded))
    settings = Settings(model=str(tmp_path), quantize="int8")
    model, devices, dtype, scheme = open_for_training(host, settings)
    assert model is loaded
    assert (devices, dtype, scheme) == ((CPU,), CPU.dtypes[0], QuantizationScheme(8))


def test_model_is_not_quantised_unasked() -> None:
    """Without ``--quantize`` the hook is not called."""
    fake = backend(CPU, schemes=("int8",), quantize=lambda: pytest.fail("was called"))
    stages(make_host(b=fake, r=runtime(FakeModel())))


# --- stages --------------------------------------------------------------------------------------


def test_only_the_runtime_that_knows_the_model_loads_it() -> None:
    """The others are asked what they know, and nothing else."""
    asked: list[str] = []

    def load_model(source: object, device: str, dtype: str) -> FakeModel:
        asked.append(f"{device} {dtype}")
        return FakeModel()

    stages(make_host(r1=runtime(None), r2=loader(load_model), b=backend(CPU), r3=runtime(None)))
    assert asked == ["cpu bfloat16"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "it holds no config.json; pass the directory that holds the model's files"),
        ("{", "its config.json cannot be read (Expecting property name"),
        ("\xff", "its config.json cannot be read ('utf-8' codec can't decode"),
        ('{"model_type": "llama"}', "its config.json says model_type 'llama'"),
        ("{}", "its config.json says model_type None"),
        ("[]", "its config.json says model_type None"),
    ],
)
def test_directory_that_no_runtime_recognises_is_explained(
    config: str | None, message: str, tmp_path: Path
) -> None:
    """The message says what is in the directory, and which runtimes were asked."""
    if config is not None:
        (tmp_path / "config.json").write_bytes(config.encode("latin-1"))
    host = make_host(b=backend(CPU), r=runtime(None), q=runtime(None))
    with pytest.raises(CheckpointError) as caught:
        open_source(host, ModelSource("x", tmp_path), Settings())
    assert f"no installed runtime recognises {tmp_path}: {message}" in str(caught.value)
    assert str(caught.value).endswith(". Installed runtimes: q, r.")


def test_file_that_no_runtime_recognises_is_explained(tmp_path: Path) -> None:
    """A path to one of a checkpoint's files is a common mistake."""
    file = tmp_path / "model.safetensors"
    file.touch()
    host = make_host(b=backend(CPU), r=runtime(None))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: it is a file; .*the directory"):
        open_source(host, ModelSource("x", file), Settings())


def test_name_that_no_runtime_recognises_is_explained() -> None:
    """A model without files is reported by its name."""
    with pytest.raises(CheckpointError, match="installed runtime recognises"):
        stages(make_host(b=backend(CPU), r=runtime(None)))


def test_no_runtime_at_all_says_what_to_install() -> None:
    """A backend alone loads nothing."""
    with pytest.raises(PluginError, match=containing("no installed plugin", "pip install glm-backend-cpu")):
        stages(make_host(b=backend(CPU)))


def raising(model: object) -> None:
    """A stage that fails for a reason the user can mend."""
    raise DeviceError("too small")


@pytest.mark.parametrize(
    ("hooks", "error", "message"),
    [
        ({"place": raising}, DeviceError, "^too small$"),
        (
            {"place": lambda model: None},
            PluginError,
            "backend 'b' cannot place this model, .*runtime 'r'; choose another",
        ),
        (
            {"place": lambda model: 5},
            PluginError,
            r"plugin 'b': place returned 5, which has no info and close\(\)",
        ),
        ({"quantize": raising}, DeviceError, "^too small$"),
        (
            {"quantize": lambda model: None},
            PluginError,
            "'b' cannot quantize this model, .*runtime 'r'; leave --quantize out",
        ),
    ],
)
def test_model_is_closed_when_a_stage_fails(
    hooks: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A failed start leaves nothing in memory."""
    model = FakeModel()
    host = make_host(b=backend(CPU, schemes=("int8",), **hooks), r=runtime(model))
    with pytest.raises(error, match=message):
        stages(host, Settings(quantize="int8" if "quantize" in hooks else "none"))
    assert model.closed == 1


@pytest.mark.parametrize("model", ["m", SimpleNamespace(info=None), SimpleNamespace(close=print)])
def test_runtime_that_returns_no_model_is_named(model: Any) -> None:
    """A wrong answer, or half of a right one, is found where it is given."""
    with pytest.raises(PluginError, match=containing("plugin 'r'", "load_model returned", "info", "close()")):
        stages(make_host(b=backend(CPU), r=runtime(model)))


def test_open_model_goes_all_the_way(tmp_path: Path) -> None:
    """Settings in, a chatting model out; adapters arrive by name with ``~`` expanded."""
    with open_model(make_host(null=null_backend), Settings(model="null"), adapters={"a": tmp_path}) as model:
        assert model.info.adapters == ("a",)
        assert model.chat("to and fro")[0] == "to and fro"


def test_adapter_that_is_no_directory_is_refused_before_loading(tmp_path: Path) -> None:
    """The message names adapter and path."""
    with pytest.raises(AdapterError, match=containing("adapter 'a'", str(tmp_path / "x"), "directory")):
        open_model(make_host(null=null_backend), Settings(model="null"), adapters={"a": tmp_path / "x"})


class InMemory:
    """A model object of the caller's own."""

    device = "cpu:0"


def test_model_in_memory_is_adopted_where_it_is() -> None:
    """The runtime gets object and tokenizer, the backend of the object's device places it."""
    sources: list[ModelSource] = []

    def load_model(source: ModelSource) -> FakeModel:
        sources.append(source)
        return FakeModel()

    host = make_host(a=backend(*GPUS, priority=9), b=backend(CPU), r=loader(load_model))
    model = InMemory()
    adopt_model(host, model, "tokenizer")
    assert sources == [ModelSource("InMemory", None, {}, model, "tokenizer")]


def test_model_in_memory_that_no_runtime_knows_is_explained() -> None:
    """The message names the object's class, not a directory."""
    host = make_host(b=backend(CPU), r=runtime(None))
    with pytest.raises(CheckpointError, match="no installed runtime recognises InMemory: .*InMemory"):
        adopt_model(host, InMemory(), None)
