"""The settings beside the conversation, without any page."""

from __future__ import annotations

import pytest
from glm_frontend_web._settings import PageSettings, reset_hidden_settings

from glm_core import ModelInfo, RequestError, Sampling
from glm_core.conversation import Conversation, Turn

INFO = ModelInfo(
    "m", "chatglm", 1, 2048, Sampling(max_length=1024, top_p=0.7, temperature=0.95, do_sample=True), ("law",)
)


def test_settings_begin_with_the_models_own_defaults() -> None:
    """The model's sampling, and its adapter where exactly one is loaded."""
    assert PageSettings.from_model(INFO) == PageSettings("", "law", 1024, 0.7, 0.95)
    two = ModelInfo("m", "chatglm", 1, 2048, Sampling(do_sample=False, temperature=0.95), ("law", "poems"))
    assert PageSettings.from_model(two) == PageSettings("", None, 2048, 1.0, 0.0)


def test_an_imported_conversation_says_what_it_wants_and_the_model_the_rest() -> None:
    """A file that names no temperature is answered as the model would."""
    imported = Conversation(system="S", adapter="poems", sampling=Sampling(top_p=0.5))
    assert PageSettings.from_conversation(imported, INFO) == PageSettings("S", "poems", 1024, 0.5, 0.95)


def test_settings_reach_the_request() -> None:
    """Temperature 0 is greedy; a maximum length of 0 leaves it to the model."""
    conversation = Conversation([Turn("a", "A")])
    PageSettings("Be brief.", "law", 0, 1.0, 0).apply_to(conversation)
    request = conversation.build_request("b")
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    assert request.adapter == "law"
    assert request.sampling == Sampling(top_p=1.0, temperature=0, do_sample=False)
    PageSettings(max_length=64, temperature=0.5).apply_to(conversation)
    assert conversation.sampling == Sampling(max_length=64, top_p=1.0, temperature=0.5, do_sample=True)


def test_a_value_out_of_range_changes_nothing() -> None:
    """A browser may send anything."""
    conversation = Conversation(system="S")
    with pytest.raises(RequestError, match="top_p"):
        PageSettings("T", top_p=2).apply_to(conversation)
    assert conversation == Conversation(system="S")


def test_what_the_page_cannot_show_stays_until_it_is_reset() -> None:
    """An imported file's seed and top_k go into requests and exports as they came."""
    conversation = Conversation(sampling=Sampling(top_k=5), seed=7)
    PageSettings().apply_to(conversation)
    assert (conversation.sampling.top_k, conversation.seed) == (5, 7)
    reset_hidden_settings(conversation)
    assert (conversation.sampling, conversation.seed) == (Sampling(), None)
