"""Services that get a training's numbers, through accelerate's trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from glm_ptuning._logs import open_logs
from glm_ptuning._settings import TrainingSettings
from glm_ptuning._trackers import SERVICES, ServiceLog
from key_words import containing

from glm_core import ConfigError


class Recorder(GeneralTracker):
    """A tracker of accelerate's kind that keeps what it gets."""

    name = "recorder"
    requires_logging_directory = False
    main_process_only = False
    runs: list[Recorder]
    fails: str = ""

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.run_name = run_name
        self.got: list[Any] = []
        type(self).runs.append(self)

    @property
    def tracker(self) -> Any:
        """Whatever the service calls a run."""
        return self

    def start(self) -> None:
        """Log in."""
        self._note("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the settings."""
        self._note("settings", values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Keep numbers."""
        self._note("log", values, step)

    def finish(self) -> None:
        """Send the rest."""
        self._note("finish")

    def _note(self, kind: str, *what: Any) -> None:
        if type(self).fails == kind:
            raise RuntimeError("no connection\nto the service")
        self.got.append((kind, *what))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """Take the place of a service."""

    class Fresh(Recorder):
        runs: list[Recorder] = []  # noqa: RUF012

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Fresh)
    return Fresh


def test_each_service_is_one_of_accelerates() -> None:
    """A name that is taken has a tracker."""
    assert set(SERVICES) <= {str(name) for name in LOGGER_TYPE_TO_CLASS}


def test_a_service_gets_settings_and_numbers(recorder: type[Recorder], tmp_path: Path) -> None:
    """Under the run's name, or that of the output directory."""
    for run_name, expected in (("mine", "mine"), (None, "out")):
        settings = TrainingSettings(report_to=("mlflow",), run_name=run_name, learning_rate=0.5)
        (log,) = open_logs(settings, tmp_path / "out", 0)
        log.add(3, {"loss": 0.5, "eval_loss": 2.0})
        log.close()
        run = recorder.runs[-1]
        assert run.run_name == expected
        assert [kind for kind, *_ in run.got] == ["start", "settings", "log", "finish"]
        assert run.got[1][1]["learning_rate"] == 0.5
        assert all(isinstance(value, bool | int | float | str) for value in run.got[1][1].values())
        assert run.got[2] == ("log", {"loss": 0.5, "eval_loss": 2.0}, 3)


@pytest.mark.parametrize("fails", ["start", "settings"])
def test_a_service_that_cannot_begin_is_one_sentence(recorder: type[Recorder], fails: str) -> None:
    """Before the first step, so that nobody waits for numbers in vain."""
    recorder.fails = fails
    with pytest.raises(ConfigError, match=containing("report_to mlflow", "no connection to the service")):
        ServiceLog("mlflow", "run", {})


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_service_that_fails_later_does_not_end_a_training(
    recorder: type[Recorder], fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and the rest goes on."""
    log = ServiceLog("mlflow", "run", {})
    recorder.fails = fails
    for step in range(3):
        log.add(step, {"loss": 1.0})
    log.close()
    log.close()
    assert caplog.text.count("mlflow gets no more numbers") == 1
