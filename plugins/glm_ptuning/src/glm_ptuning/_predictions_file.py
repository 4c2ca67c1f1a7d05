"""Writing ``generated_predictions.txt`` row by row, so that a killed run keeps its answers and is continued.

One JSON object a line with ``labels`` and ``predict``, not ASCII-escaped, as the original writes it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
from glm_runtime_torch.training import write_text

from glm_core.errors import ConfigError

NAME = "generated_predictions.txt"
EVERYTHING = "all_results.json"


class PredictionsFile:
    """The answers of one job. They grow in ``NAME.partial`` and take the final name when all are there.

    A context manager, which locks the directory against other processes.

    Args:
        directory: the job's output directory.
        job: whatever decides the answers; unfinished answers of another job are not continued.
        labels: the expected answer of each row.

    Attributes:
        predictions: the answers so far.
        path: the final file.
    """

    def __init__(self, directory: Path, job: Mapping[str, Any], labels: Sequence[str]) -> None:
        self.path = directory / NAME
        self.predictions: list[str] = []
        self._partial = directory / f"{NAME}.partial"
        self._job_file = directory / f"{NAME}.job"
        self._job = json.dumps(job, ensure_ascii=False, sort_keys=True)
        self._labels = labels
        self._lock = filelock.FileLock(directory / f"{NAME}.lock")

    def __enter__(self) -> PredictionsFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ConfigError(
                f"another process is answering into {self.path.parent}; wait for it, or choose another "
                "output_dir"
            ) from None
        except OSError as error:
            raise _build_write_error(self.path.parent, error) from error
        kept = self._read_kept()
        try:
            self._file = self._partial.open("r+b" if kept else "wb")
        except OSError as error:
            self._lock.release()
            raise _build_write_error(self.path.parent, error) from error
        try:
            self._file.truncate(kept)
            self._file.seek(kept)
            write_text(self._job_file, self._job)
        except OSError as error:
            self._file.close()
            self._lock.release()
            raise _build_write_error(self.path.parent, error) from error
        return self

    def append(self, prediction: str) -> None:
        """Add the next row's answer and hand it to the system, so that a kill does not lose it."""
        try:
            self._file.write(_format_line(self._labels[len(self.predictions)], prediction))
            self._file.flush()
        except OSError as error:
            raise _build_write_error(self.path.parent, error) from error
        self.predictions.append(prediction)

    def finish(self) -> None:
        """Give the file its final name."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            self._job_file.unlink()
        except OSError as error:
            raise _build_write_error(self.path.parent, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        finally:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _read_kept(self) -> int:
        """Read the answers of an interrupted run of this job; return how many bytes are whole lines."""
        try:
            if self._job_file.read_text("utf-8") != self._job:
                return 0
            lines = self._partial.read_bytes().splitlines(keepends=True)
        except (OSError, ValueError):
            return 0
        kept = 0
        for line, label in zip(lines, self._labels, strict=False):
            prediction = _parse_line(line, label)
            if prediction is None:
                break
            self.predictions.append(prediction)
            kept += len(line)
        return kept


def make_output_directory(directory: Path) -> None:
    """Make a directory for results, before the work whose results go there.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _build_write_error(directory, error) from error


def read_results(directory: Path) -> dict[str, Any]:
    """Return all numbers that `write_results` wrote into a directory."""
    return read_object(directory / EVERYTHING)


def write_results(directory: Path, name: str, results: Mapping[str, float]) -> tuple[Path, Path]:
    """Write ``{name}_results.json`` and put the same into ``all_results.json``, as the original does."""
    own, everything = directory / f"{name}_results.json", directory / EVERYTHING
    try:
        write_text(own, _format_json(results))
        write_text(everything, _format_json({**read_object(everything), **results}))
    except OSError as error:
        raise _build_write_error(directory, error) from error
    return own, everything


def _format_line(label: str, prediction: str) -> bytes:
    text = json.dumps({"labels": label, "predict": prediction}, ensure_ascii=False)
    return f"{text}\n".encode()


def _parse_line(line: bytes, label: str) -> str | None:
    """Return the answer in a line that this job wrote; ``None`` for any other, such as one cut off."""
    try:
        content: Any = json.loads(line)
        prediction = content["predict"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return prediction if isinstance(prediction, str) and line == _format_line(label, prediction) else None


def _format_json(content: Mapping[str, float]) -> str:
    # indent and order as the original writes these files
    return json.dumps(content, ensure_ascii=False, indent=4, sort_keys=True) + "\n"


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is none."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _build_write_error(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{directory} cannot be written: {error.strerror or error}; make room there, or choose another "
        "output_dir"
    )
