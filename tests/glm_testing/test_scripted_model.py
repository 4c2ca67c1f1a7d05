"""The model that frontends are tested on does what its questions say."""

from __future__ import annotations

import threading

import pytest
from glm_testing.scripted_model import FAILURE, LONG_ANSWER, ScriptedModel
from patience import join

from glm_core import BusyError, ClosedError, DeviceError, PluginError
from glm_core.chat_model import collect


@pytest.mark.parametrize(
    ("question", "answer"),
    [("say 你好 🎉", "你好 🎉"), ("long", LONG_ANSWER), ("what?", "what?"), ("say", "")],
)
def test_it_says_what_it_is_asked_to(question: str, answer: str) -> None:
    """In pieces, with a last delta that has usage."""
    assert ScriptedModel().model.chat(question)[0] == answer


def test_it_fails_in_three_ways() -> None:
    """At once, half way for the user, and half way as a bug."""
    model = ScriptedModel().model
    with pytest.raises(BusyError):
        model.chat("refuse")
    stream = model.chat_stream("fail half")
    assert next(stream).text == "hal"
    with pytest.raises(DeviceError, match=FAILURE):
        collect(stream)
    with pytest.raises(PluginError, match="a bug of the scripted model"):
        model.chat("crash half")


def test_an_answer_without_end_ends_when_it_is_closed_from_elsewhere() -> None:
    """The reader wakes, and the note says that it was closed."""
    notes: list[tuple[str, str]] = []
    scripted = ScriptedModel(note=lambda event, question: notes.append((event, question)))
    stream = scripted.model.chat_stream("forever")
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    stream.close()
    join(reader)
    assert notes == [("begun", "forever"), ("closed", "forever")]


def test_a_held_answer_waits_for_its_gate() -> None:
    """Its first piece comes at once, the rest when the test says so."""
    scripted = ScriptedModel()
    stream = scripted.model.chat_stream("hold abcdef")
    assert next(stream).text == "abc"
    scripted.gate.set()
    assert collect(stream)[0] == "def"


def test_closing_the_model_ends_what_runs() -> None:
    """With `ClosedError`."""
    scripted = ScriptedModel()
    stream = scripted.model.chat_stream("forever")
    while next(stream).text != "r ":
        pass
    scripted.close()
    with pytest.raises(ClosedError):
        next(stream)
