"""Checks of adapters: loaded with the model, chosen by requests, added and removed where possible."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from glm_core.errors import AdapterError, GlmError
from glm_core.records import AdapterHolder

from ._answers import ANSWERING, QUESTIONS, ask, make_question
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

_DAMAGED = b"\xff\xfedamaged by the conformance kit\x00"


def _require_adapters(subject: Subject) -> dict[str, Path]:
    if not subject.adapters:
        raise NotApplicableError("no adapter is given; name one with --glm-adapter NAME=DIR")
    return subject.adapters


@check("adapters", "a request that names no adapter is answered by the base model", *ANSWERING)
def check_adapters(subject: Subject) -> None:
    """Check that named adapters answer, each differently from the base model for some question."""
    names = list(_require_adapters(subject))
    with subject.open_fresh(adapters={}) as base:
        plain = [ask(subject, make_question(text), base).text for text in QUESTIONS]
    with subject.open_fresh() as model:
        expect(
            sorted(model.info.adapters) == sorted(names),
            f"info.adapters is {model.info.adapters!r}; loaded were {tuple(names)!r}",
        )
        chosen = {
            name: [ask(subject, make_question(text, adapter=name), model).text for text in QUESTIONS]
            for name in names
        }
        unchosen = [ask(subject, make_question(text), model).text for text in QUESTIONS]
    expect(
        unchosen == plain,
        f"with adapters loaded but none chosen the answers are {unchosen!r}, without any {plain!r}",
    )
    for name, answers in chosen.items():
        expect(answers != plain, f"adapter {name!r} answers every question just as the base model does")


@check("adapters-come-and-go", "adapters may be added and removed while the model runs", *ANSWERING)
def check_adapters_come_and_go(subject: Subject) -> None:
    """Check that an added adapter answers as if loaded with the model, and a removed one is unknown."""
    name, directory = next(iter(_require_adapters(subject).items()))
    with subject.open_fresh() as model:
        from_the_start = ask(subject, make_question(adapter=name), model).text
    with subject.open_fresh(adapters={}) as model:
        if not isinstance(model.loaded, AdapterHolder):
            raise NotApplicableError("its models take adapters only when they are loaded")
        plain = ask(subject, make_question(), model).text
        anywhere = Path(directory.resolve().anchor)  # given so that the argument is known to be taken
        model.add_adapter(name, directory, inside=anywhere)
        expect(name in model.info.adapters, f"added {name!r}, but info.adapters is {model.info.adapters!r}")
        added = ask(subject, make_question(adapter=name), model).text
        expect(
            added == from_the_start,
            f"an added adapter answers {added!r}; loaded with the model it answers {from_the_start!r}",
        )
        model.remove_adapter(name)
        expect(
            name not in model.info.adapters, f"removed {name!r}, but info.adapters is {model.info.adapters!r}"
        )
        try:
            ask(subject, make_question(adapter=name), model)
        except AdapterError:
            after = ask(subject, make_question(), model).text
            expect(after == plain, f"the base model now answers {after!r}, before {plain!r}")
            return
        raise BrokenError("a removed adapter still answers")


@check("damaged-adapters", "a damaged adapter is refused with AdapterError", *ANSWERING)
def check_damaged_adapters(subject: Subject) -> None:
    """Open the model with an adapter whose every file was overwritten."""
    name, directory = next(iter(_require_adapters(subject).items()))
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / "damaged"
        shutil.copytree(directory, damaged)
        for file in damaged.rglob("*"):
            if file.is_file():
                file.write_bytes(_DAMAGED)
        try:
            model = subject.open(adapters={name: damaged})
        except AdapterError:
            return
        except GlmError as error:
            raise BrokenError(
                f"a damaged adapter raises {type(error).__name__}: {error}; expected AdapterError"
            ) from error
        model.close()
        raise BrokenError("a model opens with an adapter whose files are damaged")
