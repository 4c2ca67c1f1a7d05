"""Checks of the quantised checkpoints that ``glm quantize`` writes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from glm_core.errors import ConfigError, GlmError
from glm_core.jobs import QuantizationScheme, QuantizeJob, QuantizeProgress

from ._answers import ask, close, make_question
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

_SCHEME = QuantizationScheme(8)  # the scheme with which the copy of a tiny model still answers
HOOK = "quantize_checkpoint"


@check("copy-progress", "a quantised copy reports its progress, finishes once, and loads", HOOK)
def check_copy_progress(subject: Subject) -> None:
    """Check that bytes done never fall, only the last report is finished, and the copy answers alone."""
    with _make_destination() as destination:
        reports = list(_write(subject, destination))
        expect_reports([(report.done, report.total, report.finished) for report in reports], "bytes")
        expect(destination.is_dir(), f"after the last report there is no {destination.name}")
        with subject.open_fresh(model=str(destination), adapters={}) as model:
            ask(subject, make_question(), model)


@check(
    "copy-unfinished", "nothing stands under a copy's final name before it is whole, and it is resumed", HOOK
)
def check_copy_unfinished(subject: Subject) -> None:
    """Close after the first report; the same job then ends as if it had never stopped."""
    with _make_destination() as destination:
        reports = _write(subject, destination)
        first = next(reports)
        if first.finished:
            raise NotApplicableError("the copy is made in one step")
        close(reports)  # type: ignore[arg-type]
        expect(
            not (destination / "config.json").exists(),
            f"an unfinished copy stands under its final name {destination.name}",
        )
        rest = list(_write(subject, destination))
        expect(
            rest and rest[-1].finished, "a job that was interrupted does not come to its end when repeated"
        )
        expect(destination.is_dir(), f"after the last report there is no {destination.name}")


@check("copy-refusals", "a scheme that cannot be used is refused before anything is written", HOOK)
def check_copy_refusals(subject: Subject) -> None:
    """Ask for three bits in groups of seven, which suit nobody."""
    with _make_destination() as destination:
        try:
            next(_write(subject, destination, QuantizationScheme(3, 7)), None)
        except ConfigError:
            left = sorted(path.name for path in destination.parent.iterdir())
            expect(not left, f"a refused job leaves {', '.join(left)} behind")
            return
        except GlmError as error:
            raise BrokenError(
                f"it is refused with {type(error).__name__}: {error}; expected ConfigError"
            ) from error
        raise BrokenError("a copy of 3 bits in groups of 7 is begun")


def expect_reports(reports: list[tuple[int, int, bool]], unit: str) -> None:
    """Expect that progress never falls, keeps its total, and is finished in the last report alone.

    Args:
        reports: done, total and finished of each.
        unit: what is counted.
    """
    finished = [number for number, report in enumerate(reports) if report[2]]
    expect(
        finished == [len(reports) - 1] and reports,
        f"of {len(reports)} reports those that are finished are {finished}; expected the last alone",
    )
    done = [report[0] for report in reports]
    expect(done == sorted(done), f"{unit} done fall: {done}")
    totals = {report[1] for report in reports}
    expect(len(totals) == 1, f"the total of {unit} changes: {sorted(totals)}")
    expect(done[-1] == reports[-1][1], f"the job is finished at {done[-1]} of {reports[-1][1]} {unit}")


@contextlib.contextmanager
def _make_destination() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "copy"


def _write(
    subject: Subject, destination: Path, scheme: QuantizationScheme = _SCHEME
) -> Iterator[QuantizeProgress]:
    source = subject.find_source()
    if source.path is None:
        raise NotApplicableError(f"model {subject.model_name!r} has no files")
    reports = subject.call(HOOK, source=source, job=QuantizeJob(destination, scheme))
    if reports is None:
        raise NotApplicableError(
            f"it declines to copy model {subject.model_name!r}; name another with --glm-model"
        )
    expect(hasattr(reports, "__next__"), f"{HOOK} returned {reports!r}; expected an iterator")
    iterator: Iterator[QuantizeProgress] = reports
    return iterator
