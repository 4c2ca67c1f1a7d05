"""Run the conformance kit from pytest's command line: ``pytest --glm-plugin NAME_OR_MODULE``.

Without paths on the command line only the plugin is checked; with paths, their tests run too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from glm_core.errors import GlmError

if TYPE_CHECKING:
    from .conformance import Check, Subject

_ONLY = "glm_only"
"""Set on pytest's options, which travel to the workers of pytest-xdist: nothing else is collected."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, in a group of their own."""
    group = parser.getgroup("glm", "conformance of glm plugins")
    group.addoption("--glm-plugin", metavar="NAME", help="check this plugin: an entry point or a module")
    group.addoption(
        "--glm-model", metavar="MODEL", help="model to try it on; default: one of its own, demo or null"
    )
    group.addoption(
        "--glm-device", metavar="DEVICE", help="device to try it on; default: its first available one"
    )
    group.addoption("--glm-driver", metavar="MODULE:CLASS", help="class that talks to its frontend")
    group.addoption(
        "--glm-patience", type=float, default=20.0, metavar="SECONDS", help="longest wait; default 20"
    )
    for name, metavar, text in (
        ("adapter", "NAME=DIR", "load this adapter; may be given more than once"),
        ("run", "OPTION=VALUE", "option of its frontend; may be given more than once"),
        ("train", "OPTION=VALUE", "option of a short training job; may be given more than once"),
        ("predict", "OPTION=VALUE", "option of a short prediction; may be given more than once"),
    ):
        group.addoption(f"--glm-{name}", action="append", default=[], metavar=metavar, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Find out whether paths were given beside the plugin."""
    if config.getoption("glm_plugin") and not hasattr(config.option, _ONLY):
        setattr(config.option, _ONLY, config.args_source is not pytest.Config.ArgsSource.ARGS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect no files where only the plugin is checked."""
    if not getattr(config.option, _ONLY, False):
        return None
    given = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    return None if collection_path in given else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add one item for each check that concerns the plugin."""
    if not config.getoption("glm_plugin"):
        return
    try:
        subject = _make_subject(config)
    except GlmError as error:
        raise pytest.UsageError(f"--glm-plugin: {error}") from error
    suite = _Suite.from_parent(session, name=subject.name, nodeid=subject.name, subject=subject)
    found: list[pytest.Item] = list(suite.collect())
    report = pytest.CollectReport(suite.nodeid, "passed", None, list(found))
    config.hook.pytest_collectreport(report=report)  # so that they are counted
    items.extend(found)


def _make_subject(config: pytest.Config) -> Subject:
    from .conformance import Subject  # here: most runs of pytest check no plugin

    driver = config.getoption("glm_driver")
    return Subject(
        config.getoption("glm_plugin"),
        model=config.getoption("glm_model"),
        device=config.getoption("glm_device"),
        adapters=_split_pairs("adapter", config),
        run_options=_split_pairs("run", config),
        driver=_import_driver(driver) if driver else None,
        train_options=_split_pairs("train", config),
        predict_options=_split_pairs("predict", config),
        patience=config.getoption("glm_patience"),
    )


def _split_pairs(name: str, config: pytest.Config) -> dict[str, str]:
    pairs = {}
    for text in config.getoption(f"glm_{name}"):
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise pytest.UsageError(f"--glm-{name} {text!r}: expected NAME=VALUE")
        pairs[key.replace("-", "_") if name != "adapter" else key] = value
    return pairs


def _import_driver(text: str) -> Any:
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"--glm-driver {text!r}: {error}; expected MODULE:CLASS") from error


class _Suite(pytest.Collector):
    """The checks of one plugin, and what they share while they run."""

    def __init__(self, *, subject: Subject, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.subject = subject

    def collect(self) -> Iterable[pytest.Item]:
        """Yield one item for each check."""
        from .conformance import checks_for

        for check in checks_for(self.subject):
            yield _Promise.from_parent(self, name=check.name, check=check)

    def teardown(self) -> None:
        """Close what the checks opened."""
        self.subject.close()


class _Promise(pytest.Item):
    """One check."""

    def __init__(self, *, check: Check, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def runtest(self) -> None:
        """Run the check; one that has nothing to look at is skipped with the reason."""
        from .conformance import NotApplicableError

        assert isinstance(self.parent, _Suite)
        try:
            self.check.run(self.parent.subject)
        except NotApplicableError as reason:
            pytest.skip(str(reason))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the promise, and what the plugin raised if that was nothing for its users."""
        from .conformance import BrokenPromiseError
        from .driver import FrontendGoneError

        cause = excinfo.value.__cause__
        for_users = cause is None or isinstance(cause, (GlmError, FrontendGoneError))
        if isinstance(excinfo.value, BrokenPromiseError) and for_users:
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the promise, for headings."""
        return self.path, None, f"{self.name}: {self.check.promise}"


def pytest_report_header(config: pytest.Config) -> Iterator[str] | list[str]:
    """Name the plugin that is checked."""
    plugin = config.getoption("glm_plugin")
    return [f"glm plugin: {plugin}"] if plugin else []
