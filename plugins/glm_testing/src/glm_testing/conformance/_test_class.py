"""The kit as a test class, for a plugin's own tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from ..driver import FrontendDriver
from ._outcomes import NotApplicableError
from ._promises import Check, checks_for
from .subject import PATIENCE, Subject


class ConformanceTests:
    """Every check that concerns a plugin, as one parametrised test; derive from it and name the plugin.

    Where a setting needs files (data to train on, an adapter), override `prepare`.

    Attributes:
        plugin: the name of its entry point, or its module's path.
        model: what to try it on; ``None`` = a model of its own, the demo model, or the null model.
        device: where; ``None`` = its first available device.
        adapters: adapter name to its directory.
        run_options: options that its frontend needs.
        driver: the class that talks to its frontend.
        train_options: options of a short training job.
        predict_options: options of a short prediction.
        patience: seconds to wait for something that should happen.
    """

    plugin: ClassVar[str | ModuleType]
    model: ClassVar[str | None] = None
    device: ClassVar[str | None] = None
    adapters: ClassVar[Mapping[str, str | Path]] = {}
    run_options: ClassVar[Mapping[str, Any]] = {}
    driver: ClassVar[type[FrontendDriver] | None] = None
    train_options: ClassVar[Mapping[str, Any]] = {}
    predict_options: ClassVar[Mapping[str, Any]] = {}
    patience: ClassVar[float] = PATIENCE

    @classmethod
    def make_subject(cls, **settings: Any) -> Subject:
        """Return the plugin as the attributes describe it, or ``settings`` where they say otherwise."""
        names = ("model", "device", "adapters", "run_options", "driver", "train_options", "predict_options")
        described = {name: getattr(cls, name) for name in (*names, "patience")}
        return Subject(cls.plugin, **{**described, **settings})

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test for each check that concerns the plugin."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", checks_for(self.make_subject()), ids=lambda check: check.name)

    @classmethod
    def prepare(cls, folder: Path) -> Mapping[str, Any]:
        """Write what the settings need into an empty directory and return further settings."""
        del folder
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
        """Yield the plugin, with what the checks share."""
        subject = cls.make_subject(**cls.prepare(tmp_path_factory.mktemp("conformance")))
        yield subject
        subject.close()

    def test_promise(self, check: Check, subject: Subject) -> None:
        """Check that the plugin keeps this promise."""
        __tracebackhide__ = True
        try:
            check.run(subject)
        except NotApplicableError as reason:
            pytest.skip(str(reason))
