"""The state of a chat."""

from __future__ import annotations

from typing import Any

import pytest
from glm_frontend_cli._conversation import SETTINGS, Conversation, Turn, parse_value

from glm_core import RequestError, Sampling


def contents(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Roles and texts of a request."""
    return [(message.role, message.content) for message in request.messages]


@pytest.fixture
def two_turns() -> Conversation:
    """A conversation of two turns."""
    return Conversation(turns=[Turn("q1", "a1"), Turn("q2", "a2")])


def test_request_holds_system_then_turns_then_question(two_turns: Any) -> None:
    """A request carries everything said so far, in order."""
    two_turns.system = "be brief"
    assert contents(two_turns.request("q3")) == [
        ("system", "be brief"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
        ("user", "q3"),
    ]


def test_request_carries_adapter_settings_and_seed() -> None:
    """What the user chose reaches the model."""
    conversation = Conversation(adapter="law", sampling=Sampling(top_k=3), seed=7)
    request = conversation.request("q")
    assert (request.adapter, request.sampling.top_k, request.seed) == ("law", 3, 7)


def test_replacing_request_leaves_the_last_turn_out(two_turns: Any) -> None:
    """Regenerating asks as if the last turn had not been, without forgetting it yet."""
    request = two_turns.request("q2", replacing=True)
    assert contents(request) == [("user", "q1"), ("assistant", "a1"), ("user", "q2")]
    assert len(two_turns.turns) == 2


def test_replacing_record_swaps_the_last_turn(two_turns: Any) -> None:
    """A regenerated answer takes the place of the old one."""
    two_turns.record("q2", "better", replacing=True)
    assert two_turns.turns == [Turn("q1", "a1"), Turn("q2", "better")]


def test_blank_question_is_refused() -> None:
    """A request without a question cannot be made."""
    with pytest.raises(RequestError, match="question is empty"):
        Conversation().request("  ")


def test_undo_takes_back_the_last_turn_and_says_which(two_turns: Any) -> None:
    """Undo works turn by turn until nothing is left."""
    assert [two_turns.undo(), two_turns.undo(), two_turns.undo()] == ["q2", "q1", None]
    assert two_turns.turns == []


def test_undo_takes_back_an_unanswered_question_first(two_turns: Any) -> None:
    """A failed question is undone before the turns."""
    two_turns.unanswered = "failed"
    assert two_turns.last_question == "failed"
    assert not two_turns.last_is_answered
    assert two_turns.undo() == "failed"
    assert len(two_turns.turns) == 2


def test_clear_keeps_instructions_adapter_and_settings(two_turns: Any) -> None:
    """Clearing forgets what was said and nothing else."""
    two_turns.system, two_turns.adapter, two_turns.unanswered = "s", "law", "x"
    two_turns.change("top_k", 3)
    two_turns.clear()
    assert two_turns == Conversation(system="s", adapter="law", sampling=Sampling(top_k=3))


def test_change_validates_every_setting() -> None:
    """A bad value is refused with core's words and changes nothing."""
    conversation = Conversation()
    bad = {"temperature": -1, "top_p": 2, "top_k": 1.5, "seed": -3, "max_length": 0, "do_sample": "maybe"}
    for name, value in bad.items():
        with pytest.raises(RequestError, match=name):
            conversation.change(name, value)
    assert conversation == Conversation()


def test_change_to_none_goes_back_to_the_default() -> None:
    """``None`` leaves a setting to the model again."""
    conversation = Conversation()
    conversation.change_all({"temperature": 0.5, "seed": 1, "unrelated": 3, "top_p": None})
    assert conversation.changed_settings() == {"temperature": 0.5, "seed": 1}
    for name in SETTINGS:
        conversation.change(name, None)
    assert conversation.changed_settings() == {}


@pytest.mark.parametrize(
    ("typed", "value"),
    [("3", 3), ("0.5", 0.5), ("1e-2", 0.01), ("true", True), ("OFF", False), ("maybe", "maybe")],
)
def test_typed_values_become_the_most_specific_type(typed: str, value: Any) -> None:
    """Numbers and switches are recognised; anything else stays text for core to refuse."""
    assert parse_value(typed) == value
    assert type(parse_value(typed)) is type(value)
