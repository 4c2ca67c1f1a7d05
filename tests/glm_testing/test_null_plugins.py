"""Tests of the smallest complete plugins, which double as an example of how plugins are tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_testing import make_host, null_backend, null_frontend, null_trainer
from key_words import containing

from glm_core import (
    AdapterError,
    ChatRequest,
    ClosedError,
    ConfigError,
    Message,
    OutsideFolderError,
    RequestError,
)
from glm_core.cli import run as run_command
from glm_core.config import Settings
from glm_core.records import ModelSource, Placement, TrainJob
from glm_core.routing import open_model


def test_null_frontend_runs_on_the_null_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``glm run null --model null`` takes a question through every stage to the terminal."""
    host = make_host(backend=null_backend, frontend=null_frontend)
    monkeypatch.setattr(run_command, "get_default_host", lambda: host)
    assert run_command.run(["null", "--model", "null", "--question", "how are you"]) == 0
    assert capsys.readouterr().out == "how are you\n"


def test_null_plugins_load_and_answer_what_they_describe() -> None:
    """Neither is broken, and together they answer every hook of a chat."""
    host = make_host(backend=null_backend, frontend=null_frontend)
    assert [report.status for report in host.reports] == ["ok", "ok"]
    answered = {hook for report in host.reports for hook in report.hooks}
    assert {"load_model", "place", "chat_stream", "describe_backend", "describe_frontend"} <= answered


def test_null_runtime_declines_what_is_not_its_own() -> None:
    """Another model's name, and another runtime's model, are answered with ``None``."""
    request = ChatRequest((Message("user", "hi"),))
    assert null_backend.load_model(ModelSource("other")) is None
    assert null_backend.place(object(), Placement(("null",))) is None
    assert null_backend.chat_stream(object(), request) is None


def test_null_runtime_goes_on_from_bare_text() -> None:
    """A request with a prompt and no messages is answered too."""
    model = null_backend.load_model(ModelSource("null"))
    assert model is not None
    deltas = null_backend.chat_stream(model, ChatRequest(prompt="one two"))
    assert deltas is not None
    assert "".join(delta.text for delta in deltas) == "one two"


def test_null_model_refuses_requests_once_closed() -> None:
    """The error comes from the call, before anything is read."""
    model = null_backend.load_model(ModelSource("null"))
    assert model is not None
    model.close()
    with pytest.raises(ClosedError):
        null_backend.chat_stream(model, ChatRequest((Message("user", "hi"),)))


def test_null_adapter_says_its_word_where_it_is_chosen(tmp_path: Path) -> None:
    """Loaded with the model or later; a file that is no text is refused."""
    (tmp_path / "adapter.txt").write_text("Ahoy!")
    with open_model(
        make_host(null=null_backend), Settings(model="null"), adapters={"poet": tmp_path}
    ) as model:
        assert model.chat("how are you", adapter="poet")[0] == "Ahoy! how are you"
        assert model.chat("how are you")[0] == "how are you"
        model.add_adapter("sailor", tmp_path)
        model.remove_adapter("poet")
        assert model.info.adapters == ("sailor",)
        assert model.chat("how are you", adapter="sailor")[0] == "Ahoy! how are you"
        with pytest.raises(OutsideFolderError, match="outside"):
            model.add_adapter("stranger", tmp_path, inside=tmp_path / "elsewhere")
        (tmp_path / "adapter.txt").write_bytes(b"\xff")
        with pytest.raises(AdapterError, match="adapter 'broken': .* cannot be read"):
            model.add_adapter("broken", tmp_path)


@pytest.mark.parametrize(
    ("stop", "answer"), [("e t", "on"), ("one", ""), (" three", "one two"), ("four", "one two three")]
)
def test_null_model_stops_before_a_stop_string(stop: str, answer: str) -> None:
    """Wherever its words begin and end."""
    with open_model(make_host(null=null_backend), Settings(model="null")) as model:
        assert model.chat("one two three", stop=stop)[0] == answer


def test_null_model_refuses_more_words_than_it_has_room_for() -> None:
    """As a real one does."""
    with open_model(make_host(null=null_backend), Settings(model="null")) as model:
        with pytest.raises(RequestError, match=containing("2048 words", "2047")):
            model.chat("word " * 2048)


def test_null_trainer_makes_an_adapter_that_the_null_model_loads(tmp_path: Path) -> None:
    """From a file of words to an answer that begins with the longest of them."""
    (tmp_path / "words.txt").write_text("a bc\ndef\n\ngh\n")
    job = TrainJob("null", tmp_path / "out", {"train_file": str(tmp_path / "words.txt")})
    host = make_host(null=null_backend, trainer=null_trainer)
    reports = list(host.call("trainer", "train", model=null_backend.NullModel("null"), job=job))
    assert [report.step for report in reports] == [1, 2, 3, 3]
    assert reports[-1].checkpoint == tmp_path / "out" / "checkpoint-3"
    with open_model(host, Settings(model="null"), adapters={"mine": tmp_path / "out"}) as model:
        assert model.chat("hello", adapter="mine")[0] == "def hello"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--train-file is missing; pass a text file"),
        ({"train_file": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"learning_rate": 1}, "option 'learning_rate' is unknown; known are train_file, save_every"),
        ({"train_file": __file__, "save_every": 0}, "save_every must be a whole number from 1, got 0"),
    ],
)
def test_null_trainer_refuses_options_before_it_begins(options: dict[str, object], said: str) -> None:
    """At the call, not when the iterator is read."""
    with pytest.raises(ConfigError, match=said):
        null_trainer.train(null_backend.NullModel("null"), TrainJob("null", Path("never"), options))
