"""The state of a chat."""

import pytest

from glm_core import ChatRequest, Message, RequestError, Sampling, ToolCall
from glm_core.conversation import SETTINGS, Conversation, Turn

STEPS = (
    Message("assistant", "", (ToolCall("call_1", "weather", '{"city": "Paris"}'),)),
    Message("tool", "rain", tool_call_id="call_1"),
)


def contents(request: ChatRequest) -> list[tuple[str, str]]:
    """Roles and texts of a request."""
    return [(message.role, message.content) for message in request.messages]


@pytest.fixture
def two_turns() -> Conversation:
    """A conversation of two turns."""
    return Conversation(turns=[Turn("q1", "a1"), Turn("q2", "a2")])


def test_request_holds_system_then_turns_then_question(two_turns: Conversation) -> None:
    """A request carries everything said so far, in order."""
    two_turns.system = "be brief"
    assert contents(two_turns.build_request("q3")) == [
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
    request = conversation.build_request("q")
    assert (request.adapter, request.sampling.top_k, request.seed) == ("law", 3, 7)


def test_request_in_place_of_a_turn_leaves_it_and_what_followed_out(two_turns: Conversation) -> None:
    """Asking again sends what came before, and forgets nothing yet."""
    request = two_turns.build_request("q1 again", after=0)
    assert contents(request) == [("user", "q1 again")]
    assert len(two_turns.turns) == 2


def test_record_in_place_of_a_turn_drops_what_followed(two_turns: Conversation) -> None:
    """The new turn is the last one."""
    two_turns.unanswered = "failed"
    two_turns.record(Turn("q1", "better"), after=0)
    assert (two_turns.turns, two_turns.unanswered) == ([Turn("q1", "better")], None)


def test_request_has_calls_of_tools_where_the_model_knows_them() -> None:
    """They stand between question and answer; a model without a format for tools gets the texts only."""
    conversation = Conversation([Turn("q", "a", STEPS)])
    assert conversation.build_request("more").messages[1:3] == STEPS
    assert contents(conversation.build_request("more", with_tools=False)) == [
        ("user", "q"),
        ("assistant", "a"),
        ("user", "more"),
    ]


def test_blank_question_is_refused() -> None:
    """A request without a question cannot be made."""
    with pytest.raises(RequestError, match="question is empty"):
        Conversation().build_request("  ")


def test_undo_takes_back_the_last_turn_and_says_which(two_turns: Conversation) -> None:
    """Undo works turn by turn until nothing is left."""
    assert [two_turns.undo(), two_turns.undo(), two_turns.undo()] == ["q2", "q1", None]
    assert two_turns.turns == []


def test_undo_takes_back_an_unanswered_question_first(two_turns: Conversation) -> None:
    """A failed question is undone before the turns."""
    two_turns.unanswered = "failed"
    assert two_turns.undo() == "failed"
    assert len(two_turns.turns) == 2


def test_clear_keeps_instructions_adapter_and_settings(two_turns: Conversation) -> None:
    """Clearing forgets what was said and nothing else."""
    two_turns.system, two_turns.adapter, two_turns.unanswered, two_turns.title = "s", "law", "x", "t"
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
    conversation.change("temperature", 0.5)
    conversation.change("seed", 1)
    assert conversation.get_changed_settings() == {"temperature": 0.5, "seed": 1}
    for name in SETTINGS:
        conversation.change(name, None)
    assert conversation.get_changed_settings() == {}
