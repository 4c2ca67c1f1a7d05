"""Where the numbers of a training go beside its own files: TensorBoard, or a tracker's service.

All but TensorBoard are accelerate's trackers, which need the service's package. Settings are checked without
importing any of them.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from glm_core.errors import ConfigError

TENSORBOARD = "tensorboard"
# Names that transformers has too, and the module that each needs.
SERVICES = {
    "clearml": "clearml",
    "comet_ml": "comet_ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "trackio": "trackio",
    "wandb": "wandb",
}

_log = logging.getLogger("glm")


def choose_trackers(value: Any) -> tuple[str, ...]:
    """Return the trackers that ``report_to`` names: a name, several with commas between, or a list.

    ``all`` means each that is installed, ``none`` or an empty list none.

    Raises:
        ConfigError: a name is unknown, or its package is not installed.
    """
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"report_to must be a name or a list of names, got {str(value)[:60]!r}")
    known = (TENSORBOARD, *SERVICES)
    chosen: dict[str, None] = {}  # a set that keeps the order
    for name in (text.strip().lower() for text in given):
        if name in ("", "none"):
            continue
        if name == "all":
            chosen |= dict.fromkeys(
                tracker for tracker in known if tracker == TENSORBOARD or _is_installed(tracker)
            )
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(known)}, all and none"
            raise ConfigError(f"report_to {name[:60]!r} is unknown; {hint}")
        elif name != TENSORBOARD and not _is_installed(name):
            raise ConfigError(f"report_to {name} needs its package: pip install {name.replace('_', '-')}")
        else:
            chosen[name] = None
    return tuple(chosen)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(SERVICES[name]) is not None


class ServiceLog:
    """One of accelerate's trackers; a failure of the service never ends a training that has begun.

    Args:
        name: one of `SERVICES`.
        run_name: of the run, or of the project where the service groups runs by it.
        settings: of the job.

    Raises:
        ConfigError: the service cannot be used, such as without a login.
    """

    def __init__(self, name: str, run_name: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        try:
            # accelerate imports the services' packages, so it waits until one of them is wanted.
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            self._tracker: Any = LOGGER_TYPE_TO_CLASS[name](run_name)
            self._tracker.start()
            self._tracker.store_init_configuration(_flatten(settings))
        except Exception as error:  # whatever a package of somebody else's raises
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"report_to {name} cannot begin ({reason or type(error).__name__}); set the service up, or "
                "leave it out"
            ) from error

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers of a step, by name."""
        self._call("log", dict(values), step=step)

    def close(self) -> None:
        """Send what is still to be sent."""
        self._call("finish")
        self._tracker = None

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, method)(*arguments, **keywords)
        except Exception as error:  # likewise
            _log.warning("%s gets no more numbers: %s", self._name, " ".join(str(error).split())[:300])
            self._tracker = None


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as all services take them: numbers, texts and truth values."""
    plain: Iterable[tuple[str, Any]] = settings.items()
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in plain
        if value is not None
    }
