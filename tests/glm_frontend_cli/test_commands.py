"""Each slash command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from glm_frontend_cli._commands import BY_NAME, COMMANDS, parse_value, run_command
from glm_frontend_cli._session import Session
from glm_frontend_cli._view import TypedLine

from glm_core import RequestError, Usage
from glm_core.conversation import Turn

if TYPE_CHECKING:
    from tests.glm_frontend_cli.conftest import RecordingView, ScriptedRuntime


def test_help_lists_every_command(session: Session, view: RecordingView) -> None:
    """Each command stands in the help with its explanation."""
    run_command(session, "/help")
    kind, text = view.last
    assert kind == "show"
    assert all(f"/{command.name}" in text for command in COMMANDS)
    assert len(COMMANDS) == 16


@pytest.mark.parametrize(
    ("typed", "meant"), [("/halp", "/help"), ("/regen", "/regenerate"), ("/sets", "/set")]
)
def test_unknown_command_names_the_nearest(
    session: Session, view: RecordingView, typed: str, meant: str
) -> None:
    """A misspelt command gets one line with the likely one."""
    run_command(session, typed)
    assert view.last == (
        "error",
        f"There is no command {typed}. Did you mean {meant}? /help lists all; "
        "start with // to send text with a slash",
    )


def test_unknown_command_without_a_likeness_guesses_nothing(session: Session, view: RecordingView) -> None:
    """Nonsense is not guessed at."""
    run_command(session, "/qqqqqqq")
    assert "Did you mean" not in view.last[1]


def test_command_names_are_case_insensitive(session: Session, view: RecordingView) -> None:
    """``/INFO`` is ``/info``."""
    run_command(session, "/INFO")
    assert "scripted" in view.last[1]


def test_clear_command_forgets_and_empties_the_screen(session: Session, view: RecordingView) -> None:
    """Nothing of what was said is left."""
    session.conversation.record(Turn("q", "a"))
    run_command(session, "/clear")
    assert session.conversation.turns == []
    assert view.shown == [("cleared screen", ""), ("notice", "The conversation was cleared")]


@pytest.mark.parametrize("name", ["exit", "quit", "stop"])
def test_exit_command_ends_the_loop(session: Session, view: RecordingView, name: str) -> None:
    """Nothing is read after it."""
    run_command(session, f"/{name}")
    session.chat()
    assert view.prefills == []


def test_regenerate_command_replaces_the_last_answer(session: Session, runtime: ScriptedRuntime) -> None:
    """The same question is asked again and its new answer takes the old one's place."""
    session.conversation.turns = [Turn("q1", "a1"), Turn("q2", "old")]
    run_command(session, "/regenerate")
    assert session.conversation.turns == [Turn("q1", "a1"), Turn("q2", "hello")]
    assert [message.content for message in runtime.requests[0].messages] == ["q1", "a1", "q2"]


def test_regenerate_command_asks_an_unanswered_question(session: Session, runtime: ScriptedRuntime) -> None:
    """A question that failed is asked without replacing anything."""
    session.conversation.turns = [Turn("q1", "a1")]
    session.conversation.unanswered = "q2"
    run_command(session, "/regenerate")
    assert session.conversation.turns == [Turn("q1", "a1"), Turn("q2", "hello")]


def test_failed_regenerate_keeps_the_old_answer(session: Session, runtime: ScriptedRuntime) -> None:
    """An error costs nothing that was there."""
    session.conversation.turns = [Turn("q", "old")]
    runtime.error = RequestError("too long")
    run_command(session, "/regenerate")
    assert session.conversation.turns == [Turn("q", "old")]
    assert session.conversation.unanswered is None


def test_regenerate_command_warns_of_a_fixed_seed(session: Session, view: RecordingView) -> None:
    """With a seed the answer cannot change, and the user is told."""
    session.conversation.record(Turn("q", "a"))
    session.conversation.seed = 3
    run_command(session, "/regenerate")
    assert view.shown[0] == (
        "notice",
        "seed is fixed to 3, so the answer will be the same; /set seed default lifts that",
    )


@pytest.mark.parametrize("name", ["regenerate", "undo", "edit", "history"])
def test_commands_about_the_past_need_one(session: Session, view: RecordingView, name: str) -> None:
    """At the start there is nothing to repeat, take back, edit or show."""
    run_command(session, f"/{name}")
    assert view.shown == [("notice", "Nothing has been said yet")]


def test_undo_command_says_what_it_took_back(session: Session, view: RecordingView) -> None:
    """Long questions are shortened to one line."""
    session.conversation.record(Turn("first\n" + "x" * 100, "a"))
    run_command(session, "/undo")
    assert session.conversation.turns == []
    assert view.last[1].startswith("Taken back: first xxx")
    assert view.last[1].endswith("x…")


def test_edit_command_puts_the_question_into_the_next_input_line(
    session: Session, view: RecordingView
) -> None:
    """The turn stays until the edited question is answered."""
    session.conversation.record(Turn("q", "a"))
    run_command(session, "/edit")
    session.chat()
    assert view.prefills == ["q"]
    assert session.conversation.turns == [Turn("q", "a")]


def test_edit_command_with_text_asks_at_once(session: Session) -> None:
    """``/edit TEXT`` replaces the last question, on any view."""
    session.conversation.record(Turn("q", "a"))
    run_command(session, "/edit q, please")
    assert session.conversation.turns == [Turn("q, please", "hello")]


def test_edit_command_without_an_input_line_says_how(session: Session, view: RecordingView) -> None:
    """The plain view cannot fill an input line."""
    view.can_prefill = False
    session.conversation.record(Turn("q", "a"))
    run_command(session, "/edit")
    assert view.last == ("error", "Usage: /edit TEXT")


def test_save_command_does_not_overwrite(session: Session, view: RecordingView, tmp_path: Path) -> None:
    """An existing file needs the exclamation mark; a file of this session does not."""
    path = tmp_path / "a.json"
    path.write_text("mine")
    run_command(session, f"/save {path}")
    assert path.read_text() == "mine"
    assert view.last == ("error", f"{path} exists. Use /save! {path} to overwrite it, or another name")
    run_command(session, f"/save! {path}")
    session.conversation.record(Turn("q", "a"))
    run_command(session, f"/save {path}")
    assert view.last == ("notice", f"Saved to {path}")
    assert len(json.loads(path.read_text())["messages"]) == 2


def test_load_command_replaces_the_conversation(
    session: Session, view: RecordingView, tmp_path: Path
) -> None:
    """Loading goes on where the file ends."""
    session.conversation.record(Turn("q", "a"))
    run_command(session, f"/save {tmp_path / 'a.json'}")
    session.conversation.clear()
    run_command(session, f"/load {tmp_path / 'a.json'}")
    assert session.conversation.turns == [Turn("q", "a")]
    assert view.last == ("notice", f"Loaded {tmp_path / 'a.json'}; turns: 1")


def test_load_command_drops_an_adapter_that_is_not_there(
    session: Session, view: RecordingView, tmp_path: Path
) -> None:
    """A conversation held with another adapter goes on with the base model, and says so."""
    path = tmp_path / "a.json"
    path.write_text('{"version": 1, "messages": [{"role": "user", "content": "q"}], "adapter": "law"}')
    run_command(session, f"/load {path}")
    assert session.conversation.adapter is None
    assert [text for _, text in view.shown] == [
        "The conversation used adapter law, which is not loaded; using the base model",
        f"Loaded {path}; turns: 0",
        "The last question has no answer yet; /regenerate asks it",
    ]


@pytest.mark.parametrize(
    ("typed", "usage"), [("/save", "/save FILE"), ("/save!", "/save! FILE"), ("/load", "/load FILE")]
)
def test_file_commands_need_a_file(session: Session, view: RecordingView, typed: str, usage: str) -> None:
    """Without a file they say how they are used."""
    run_command(session, typed)
    assert view.last == ("error", f"Usage: {usage}")


def test_system_command_shows_sets_and_removes(session: Session, view: RecordingView) -> None:
    """The system prompt can be read, written and taken away."""
    for line in ("/system", "/system be brief", "/system", "/system off"):
        run_command(session, line)
    assert [text for _, text in view.shown] == [
        "No system prompt. /system TEXT sets one",
        "The system prompt was set",
        "System prompt: be brief",
        "The system prompt was removed",
    ]
    assert session.conversation.system == ""


def test_adapter_command_chooses_among_the_loaded(
    session: Session, runtime: ScriptedRuntime, view: RecordingView
) -> None:
    """Only a loaded adapter can be chosen; off is the base model."""
    runtime.adapters = ("poetry", "law")
    for line in ("/adapter", "/adapter law", "/adapter cooking", "/adapter off"):
        run_command(session, line)
    assert [text for _, text in view.shown] == [
        "Adapters: poetry, law; in use: the base model",
        "Now in use: law",
        "Adapter cooking is not loaded. Loaded: poetry, law",
        "Now in use: the base model",
    ]


def test_adapter_command_without_adapters_says_how_to_load_one(session: Session, view: RecordingView) -> None:
    """The way out is part of the message, whatever was asked for."""
    said = "No adapter is loaded. /adapter add NAME=DIR loads one, as --adapter NAME=DIR does at the start"
    run_command(session, "/adapter")
    assert view.last == ("notice", said)
    run_command(session, "/adapter law")
    assert view.last == ("error", said)
    run_command(session, "/adapter none")
    assert view.last == ("notice", "Now in use: the base model")


def test_adapter_is_added_chosen_and_removed(
    session: Session, runtime: ScriptedRuntime, view: RecordingView, tmp_path: Path
) -> None:
    """Loading chooses nothing; removing the one in use goes back to the base model, and says so."""
    (tmp_path / "poems of li bai").mkdir()
    run_command(session, f'/adapter add law="{tmp_path}/poems of li bai"')
    assert view.last == ("notice", "Adapter law was loaded; /adapter law chooses it")
    assert runtime.directories["law"] == tmp_path / "poems of li bai"
    assert session.conversation.adapter is None
    (tmp_path / "poems").mkdir()
    run_command(session, f"/adapter add {tmp_path}/poems/")
    assert runtime.adapters == ("law", "poems")
    run_command(session, "/adapter law")
    run_command(session, "/adapter remove poems")
    assert view.last == ("notice", "Adapter poems was removed")
    assert session.conversation.adapter == "law"
    run_command(session, "/adapter remove law")
    assert view.shown[-2:] == [
        ("notice", "Adapter law was removed"),
        ("notice", "Now in use: the base model"),
    ]
    assert session.conversation.adapter is None
    assert runtime.adapters == ()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("add", "Usage: /adapter add [NAME=]DIR"),
        ("add law=", "Usage: /adapter add [NAME=]DIR"),
        ("add =x", "Usage: /adapter add [NAME=]DIR"),
        ("remove", "Usage: /adapter remove NAME"),
        ("remove law", "Error: adapter 'law' is not loaded; loaded are: none"),
        (
            "add law=/nowhere",
            "Error: adapter 'law': /nowhere is no directory; pass the one with its files",
        ),
        (
            "add a:b=/",
            "Error: adapter name 'a:b' cannot be used; choose letters, digits, '.', '_' and '-', 64 at most",
        ),
    ],
)
def test_adapter_changes_that_cannot_be_made(
    session: Session, view: RecordingView, typed: str, said: str
) -> None:
    """One line says what is wrong; the chat goes on."""
    session.handle(TypedLine(f"/adapter {typed}"))
    assert view.last == ("error", said)


def test_adapter_that_is_called_like_a_word_of_the_command_is_chosen(
    session: Session, runtime: ScriptedRuntime
) -> None:
    """A name that is loaded wins over off, add and remove."""
    runtime.adapters = ("off", "add", "remove")
    for name in runtime.adapters:
        run_command(session, f"/adapter {name}")
        assert session.conversation.adapter == name
    run_command(session, "/adapter remove remove")
    assert runtime.adapters == ("off", "add")


def test_set_command_shows_all_settings_with_their_defaults(session: Session, view: RecordingView) -> None:
    """What the user changed stands beside what the model does by itself."""
    session.conversation.change("top_k", 3)
    run_command(session, "/set")
    lines = view.last[1].split("\n")
    assert "top_k = 3" in lines
    assert "temperature = 0.95 (default)" in lines
    assert "seed = random (default)" in lines
    assert "max_new_tokens = no limit (default)" in lines


@pytest.mark.parametrize("typed", ["/set top_k 3", "/set top-k=3", "/set top_k = 3"])
def test_set_command_changes_a_setting(session: Session, view: RecordingView, typed: str) -> None:
    """All usual spellings are understood."""
    run_command(session, typed)
    assert session.conversation.sampling.top_k == 3
    assert view.last == ("show", "top_k = 3")


def test_set_command_resets_a_setting(session: Session, view: RecordingView) -> None:
    """``default`` leaves a setting to the model again."""
    run_command(session, "/set temperature 0.5")
    run_command(session, "/set temperature default")
    assert session.conversation.get_changed_settings() == {}
    assert view.last == ("show", "temperature = 0.95 (default)")


def test_set_command_shows_why_a_value_is_refused(session: Session, view: RecordingView) -> None:
    """Core's own message is shown and nothing changes."""
    run_command(session, "/set temperature hot")
    assert view.last == ("error", "temperature must be 0 or more, got 'hot'")
    run_command(session, "/set speed 3")
    assert view.last[1].startswith("There is no setting speed. Known are: max_new_tokens, max_length")


def test_info_command_shows_the_model(session: Session, view: RecordingView) -> None:
    """Name, family, size and context length are shown."""
    run_command(session, "/info")
    for fact in ("scripted", "chatglm", "6.2B", "2048 tokens", "Computes    unknown", "none"):
        assert fact in view.last[1]
    assert "Last answer" not in view.last[1]


def test_info_command_shows_what_the_last_answer_took(
    session: Session, runtime: ScriptedRuntime, view: RecordingView
) -> None:
    """Tokens, speed, time to the first token and the part of it spent in the queue."""
    runtime.usage = Usage(30, 11, queue_seconds=1.5, time_to_first_token=4.0, decode_seconds=2.0)
    session.ask("q")
    run_command(session, "/info")
    assert view.last[1].split("\n")[-1] == (
        "Last answer 30 tokens of prompt, 11 of answer, 5.0 tokens/s, "
        "first token after 4.00 s, 1.50 s of it waiting"
    )


def test_history_command_shows_the_turns(session: Session, view: RecordingView) -> None:
    """The whole conversation is handed to the view."""
    session.conversation.record(Turn("q", "a"))
    run_command(session, "/history")
    assert view.last == ("turns", "[('q', 'a')]")


def test_command_names_and_aliases_do_not_collide() -> None:
    """Every name leads to one command."""
    assert len(BY_NAME) == sum(1 + len(command.aliases) for command in COMMANDS)


@pytest.mark.parametrize(
    ("typed", "value"),
    [("3", 3), ("0.5", 0.5), ("1e-2", 0.01), ("true", True), ("OFF", False), ("maybe", "maybe")],
)
def test_typed_values_become_the_most_specific_type(typed: str, value: Any) -> None:
    """Numbers and switches are recognised; anything else stays text for core to refuse."""
    assert parse_value(typed) == value
    assert type(parse_value(typed)) is type(value)


@pytest.mark.parametrize("typed", ["/copy", "/copy code"])
@pytest.mark.parametrize(
    ("clipboard", "shown"),
    [
        (True, ("notice", "Copied to the clipboard")),
        (False, ("notice", "Asked the terminal to copy it (OSC 52, which some terminals ignore)")),
        (None, ("error", "Copying works in a terminal only")),
    ],
)
def test_copy_command_copies_the_last_answer(
    session: Session, view: RecordingView, typed: str, clipboard: bool | None, shown: tuple[str, ...]
) -> None:
    """As the model wrote it, without the looks of the screen; or the last code block alone."""
    answer = "**a**\n\n```\nx = 0\n```\n\n- b\n\n  ```py\n  x = 1\n    y\n  ```\n"
    session.conversation.turns = [Turn("q", "older"), Turn("q", answer)]
    view.clipboard = clipboard
    run_command(session, typed)
    assert view.shown == [("copied", answer if typed == "/copy" else "x = 1\n  y\n"), shown]


def test_copy_command_says_when_there_is_nothing_to_copy(session: Session, view: RecordingView) -> None:
    """No answer, no code, or a word it does not know."""
    run_command(session, "/copy")
    session.conversation.record(Turn("q", "no code here"))
    run_command(session, "/copy code")
    run_command(session, "/copy everything")
    assert view.shown == [
        ("notice", "Nothing has been said yet"),
        ("notice", "The last answer has no code block"),
        ("error", "Usage: /copy [code]"),
    ]


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_file_command_asks_about_a_file(
    session: Session, runtime: ScriptedRuntime, view: RecordingView, tmp_path: Path, quote: str
) -> None:
    """The question comes first, then the file in a fence that its text does not close."""
    path = tmp_path / ("a b.md" if quote else "a.md")
    path.write_text("one\n````\ntwo\n")
    run_command(session, f"/file {quote}{path}{quote} what is this?")
    (request,) = runtime.requests
    assert request.messages[-1].content == (f"what is this?\n\n{path.name}\n`````\none\n````\ntwo\n`````")
    assert view.shown[0] == ("notice", f"With {path} (lines: 3)")


def test_file_command_without_a_question_sends_the_text(
    session: Session, runtime: ScriptedRuntime, tmp_path: Path
) -> None:
    """A question may be written in a file."""
    (tmp_path / "q.txt").write_bytes("你好\n".encode("gb18030"))
    run_command(session, f"/file {tmp_path / 'q.txt'}")
    assert runtime.requests[0].messages[-1].content == "你好"


def test_file_command_needs_a_file(session: Session, view: RecordingView) -> None:
    """Without one it says how it is used."""
    run_command(session, "/file")
    assert view.last == ("error", "Usage: /file FILE [QUESTION]")
