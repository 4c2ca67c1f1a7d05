"""Checks from a source to a placed model and back: facts, devices, dtypes, schemes, kernels, memory."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from glm_core.errors import ConfigError, DeviceError
from glm_core.records import ModelInfo, Placement, Sampling

from ._answers import ANSWERING, ask, make_question, wait_until
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

_UNSET = {"max_new_tokens", "presence_penalty", "frequency_penalty", "ignore_eos"}


@check("model-info", "a model's facts are complete, before it is placed and after", "load_model", "place")
def check_model_info(subject: Subject) -> None:
    """Check that name, family, context length and sampling defaults can be shown and relied upon."""
    fresh = subject.load_fresh()
    try:
        _expect_complete(subject, fresh.info)
    finally:
        fresh.close()
    _expect_complete(subject, subject.model.info)


def _expect_complete(subject: Subject, info: Any) -> None:
    expect(isinstance(info, ModelInfo), f"info is {info!r}; expected a ModelInfo")
    expect(
        info.name == subject.model_name,
        f"info.name is {info.name!r}; the user asked for {subject.model_name!r}",
    )
    expect(info.family, "info.family is empty")
    expect(info.context_length > 0, f"info.context_length is {info.context_length}")
    missing = [
        field.name
        for field in dataclasses.fields(Sampling)
        if field.name not in _UNSET and getattr(info.sampling, field.name) is None
    ]
    expect(
        not missing, f"info.sampling leaves {', '.join(missing)} unset; frontends show the model's defaults"
    )
    expect(
        sorted(info.adapters) == sorted(subject.adapters),
        f"info.adapters is {info.adapters!r}; loaded were {tuple(sorted(subject.adapters))!r}",
    )


@check("placed-where", "a placed model names the devices that it is on and what it computes in", "place")
def check_placed_where(subject: Subject) -> None:
    """Check that both are spelt as in ``glm devices`` and ``--dtype``."""
    info, device = subject.model.info, subject.make_settings().device
    expect(info.devices == (device,), f"info.devices is {info.devices!r}; it was placed on {device!r}")
    expect(info.dtype, "info.dtype is empty")


@check("placing-again", "placing a placed model again leaves it answering", "place")
def check_placing_again(subject: Subject) -> None:
    """Place twice; the second call may be refused, but breaks nothing."""
    with subject.open_fresh() as model:
        before = ask(subject, make_question(), model)
        with_again = Placement((subject.make_settings().device,))
        try:
            again = subject.call("place", model=model.loaded, placement=with_again)
        except DeviceError:
            again = model.loaded
        expect(again is not None, "place declines a model that it placed itself")
        after = ask(subject, make_question(), model)
        expect(before.text == after.text, f"the answer was {before.text!r}, and is now {after.text!r}")


@check("dtypes", "every dtype that a device lists works there", "describe_backend", "describe_runtime")
def check_dtypes(subject: Subject) -> None:
    """Open a model in each and ask it."""
    if not subject.own_devices:
        raise NotApplicableError("it describes no devices")
    _expect_all_work(subject, "dtype", subject.device.dtypes)


@check("kernels", "every kernel choice that the backend lists works", "describe_backend", "describe_runtime")
def check_kernels(subject: Subject) -> None:
    """Open a model with each and ask it."""
    if not subject.backend.kernels:
        raise NotApplicableError("the backend lists no kernels to choose from")
    _expect_all_work(subject, "kernels", subject.backend.kernels)


@check(
    "schemes",
    "every quantisation scheme that the backend lists works",
    "describe_backend",
    "describe_runtime",
)
def check_schemes(subject: Subject) -> None:
    """Quantise a model to each and ask it; one that does not suit it is refused with ConfigError."""
    offered = subject.backend.schemes
    if not offered:
        raise NotApplicableError("the backend lists no schemes")
    suited = [scheme for scheme in offered if _is_suited(subject, scheme)]
    if not suited:
        raise NotApplicableError(
            f"none of {', '.join(offered)} suits model {subject.model_name!r}; try another"
        )
    plain = subject.model.info.weight_bytes
    for scheme in suited:
        with subject.open_fresh(quantize=scheme) as model:
            ask(subject, make_question(), model)
            size = model.info.weight_bytes
            expect(
                not plain or size < plain,
                f"quantised to {scheme} the weights take {size} bytes, unquantised {plain}",
            )


def _is_suited(subject: Subject, scheme: str) -> bool:
    try:
        subject.open(quantize=scheme).close()
    except ConfigError:
        return False
    return True


def _expect_all_work(subject: Subject, setting: str, values: Iterable[str]) -> None:
    if not subject.model_name:
        raise NotApplicableError("there is no model to try")
    for value in values:
        try:
            with subject.open_fresh(**{setting: value}) as model:
                ask(subject, make_question(), model)
                worked = model.info.dtype
        except Exception as error:  # whatever it raises, this value does not work
            raise BrokenError(
                f"{setting} {value!r} is listed, but {type(error).__name__}: {error}"
            ) from error
        if setting == "dtype":
            expect(worked == value, f"opened in {value}, the model says that it computes in {worked!r}")


@check("memory-returned", "nothing keeps a closed model in memory", *ANSWERING)
def check_memory_returned(subject: Subject) -> None:
    """Check that the model object is gone once its caller forgets it."""
    subject.close()
    model = subject.open()
    ask(subject, make_question(), model)
    try:
        left = weakref.ref(model.loaded)
    except TypeError:
        raise NotApplicableError("its model objects take no weak references") from None
    model.close()
    del model

    def is_freed() -> bool:
        gc.collect()
        return left() is None

    expect(
        wait_until(subject, is_freed),
        f"{subject.patience:g} seconds after it was closed something still holds {left()!r}",
    )


@check("bandwidth", "measured bandwidth is a number of bytes a second", "measure_bandwidth")
def check_bandwidth(subject: Subject) -> None:
    """Accept a number, or ``None`` where the backend cannot say."""
    measured = subject.call("measure_bandwidth", device=subject.device.name)
    if measured is None:
        raise NotApplicableError("the backend cannot measure here")
    number = isinstance(measured, (int, float)) and not isinstance(measured, bool)
    expect(number and measured > 1e6, f"measure_bandwidth answers {measured!r}; expected bytes a second")
