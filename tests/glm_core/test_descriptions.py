"""Tests of what plugins may say of themselves."""

from __future__ import annotations

import re
from typing import Any

import pytest

from glm_core import PluginError
from glm_core.descriptions import (
    BackendInfo,
    DeviceInfo,
    FrontendInfo,
    ModelCard,
    ModelMatch,
    Option,
    RuntimeInfo,
    TrainerInfo,
)

CPU = DeviceInfo("cpu", "cpu", "a processor")


@pytest.mark.parametrize(
    ("record", "fields", "message"),
    [
        (
            DeviceInfo,
            ("cuda:0", "gpu", ""),
            "device 'cuda:0' has type 'gpu'; expected the part before the colon, 'cuda'",
        ),
        (DeviceInfo, ("", "", ""), "the name of a device must be one word"),
        (DeviceInfo, ("my gpu", "my gpu", ""), "the name of a device must be one word"),
        (DeviceInfo, ("cpu", "cpu", "", 1), "available of device 'cpu' must be bool, got 1"),
        (
            DeviceInfo,
            ("cpu", "cpu", "", True, "", True),
            "memory_bytes of device 'cpu' must be a whole number",
        ),
        (
            DeviceInfo,
            ("cpu", "cpu", "", True, "", 0, 0, ()),
            "device 'cpu' has dtypes (); expected a tuple of float32",
        ),
        (
            DeviceInfo,
            ("cpu", "cpu", "", True, "", 0, 0, "float32"),
            "dtypes of device 'cpu' must be a tuple of str",
        ),
        (DeviceInfo, ("cpu", "cpu", "", True, "", 0, 0, ("auto",)), "device 'cpu' has dtypes ('auto',)"),
        (BackendInfo, ("b", [CPU]), "devices of backend 'b' must be a tuple of DeviceInfo"),
        (BackendInfo, ("b", ("cpu",)), "devices of backend 'b' must be a tuple of DeviceInfo, got ('cpu',)"),
        (BackendInfo, ("b", (CPU,), 0, "int8"), "schemes of backend 'b' must be a tuple of str, got 'int8'"),
        (BackendInfo, ("b", (CPU,), 0, (), (), "torch"), "kinds of backend 'b' must be a tuple of str"),
        (RuntimeInfo, ("r", "", [CPU]), "devices of runtime 'r' must be a tuple of DeviceInfo"),
        (RuntimeInfo, ("auto",), "a runtime cannot be called 'auto'"),
        (RuntimeInfo, ("two words",), "the name of a runtime must be one word"),
        (ModelMatch, ("two words", "why"), "the kind of a model match must be one word"),
        (ModelMatch, ("torch", None), "reason of model match 'torch' must be text"),
        (Option, ("server-port", ""), "option 'server-port': its name must be as in Python, such as port"),
        (Option, ("port", "", list), "option 'port': its type must be str, int, float or bool"),
        (Option, ("port", "", int, "80"), "option 'port': its default '80' is no int"),
        (Option, ("share", "", bool, 1), "option 'share': its default 1 is no bool"),
        (
            FrontendInfo,
            ("f", "", "package.module"),
            "frontend 'f' says run='package.module'; expected \"package",
        ),
        (FrontendInfo, ("f", "", "a:b", ("port",)), "options of frontend 'f' must be a tuple of Option"),
        (TrainerInfo, ("t", "", [Option("a", "")]), "options of trainer 't' must be a tuple of Option"),
        (ModelCard, ("m", "", "/models/m"), "path of model 'm' must be pathlib"),
        (ModelCard, ("m", "", None, 7), "hub_id of model 'm' must be str | None, got 7"),
        (ModelCard, ("m", "", None, None, None, "n"), "aliases of model 'm' must be a tuple of str, got 'n'"),
    ],
)
def test_wrong_description_is_refused_as_it_is_built(
    record: Any, fields: tuple[Any, ...], message: str
) -> None:
    """A wrong value is the plugin author's, who reads what was expected; it never gets as far as routing."""
    with pytest.raises(PluginError, match=f"^{re.escape(message)}"):
        record(*fields)


def test_option_of_real_numbers_may_default_to_a_whole_one() -> None:
    """``Option("temperature", type=float, default=1)`` is what people write."""
    assert Option("temperature", "", float, 1).default == 1
