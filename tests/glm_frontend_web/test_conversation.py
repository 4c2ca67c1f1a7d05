"""The state of a chat, without any page."""

from __future__ import annotations

from typing import Any

import pytest
from glm_frontend_web._conversation import Conversation, Settings, Turn

from glm_core import ModelInfo, RequestError, Sampling


@pytest.fixture
def conversation() -> Conversation:
    """Three turns."""
    return Conversation([Turn("a", "A"), Turn("b", "B"), Turn("c", "C")])


def contents(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Roles and texts of a request."""
    return [(message.role, message.content) for message in request.messages]


def test_a_request_holds_system_prompt_history_and_question(conversation: Any) -> None:
    """Everything that was said stands before the new question, instructions first."""
    request = conversation.request("d", Settings(system="Be brief.", adapter="law"))
    assert contents(request)[0] == ("system", "Be brief.")
    assert contents(request)[1:3] == [("user", "a"), ("assistant", "A")]
    assert contents(request)[-1] == ("user", "d")
    assert request.adapter == "law"


def test_a_request_in_place_of_a_turn_leaves_out_what_followed(conversation: Any) -> None:
    """Asking in place of the second turn sends the first one only."""
    request = conversation.request("B?", Settings(), after=1)
    assert contents(request) == [("user", "a"), ("assistant", "A"), ("user", "B?")]


def test_recording_in_place_of_a_turn_drops_what_followed(conversation: Any) -> None:
    """The new turn is the last one."""
    conversation.record(Turn("x", "X"), after=1)
    assert conversation.turns == [Turn("a", "A"), Turn("x", "X")]


def test_undo_and_delete(conversation: Any) -> None:
    """Undo takes the last turn and gives its question; delete takes any."""
    assert conversation.undo() == "c"
    conversation.delete(0)
    assert conversation.turns == [Turn("b", "B")]
    conversation.delete(0)
    assert conversation.undo() is None


@pytest.mark.parametrize("index", [-1, 3, None, "0", 0.0, True, [0]])
def test_an_index_from_a_browser_may_be_anything(conversation: Any, index: Any) -> None:
    """Whatever is no index of a turn is refused, and nothing changes."""
    with pytest.raises(RequestError, match="there is no turn"):
        conversation.delete(index)
    assert len(conversation.turns) == 3


def test_settings_begin_with_the_models_own_defaults() -> None:
    """The model's sampling, and its adapter where exactly one is loaded."""
    sampling = Sampling(max_length=1024, top_p=0.7, temperature=0.95, do_sample=True)
    one = ModelInfo("m", "chatglm", 1, 2048, sampling, ("law",))
    assert Settings.of_model(one) == Settings("", "law", 1024, 0.7, 0.95)
    two = ModelInfo("m", "chatglm", 1, 2048, Sampling(do_sample=False, temperature=0.95), ("law", "poems"))
    assert Settings.of_model(two) == Settings("", None, 2048, 1.0, 0.0)


def test_settings_become_sampling() -> None:
    """Temperature 0 is greedy; a maximum length of 0 leaves it to the model."""
    assert Settings(max_length=0, temperature=0).sampling == Sampling(
        max_length=None, top_p=1.0, temperature=0, do_sample=False
    )
    assert Settings(max_length=64, temperature=0.5).sampling.do_sample is True
    with pytest.raises(RequestError, match="top_p"):
        _ = Settings(top_p=2).sampling
