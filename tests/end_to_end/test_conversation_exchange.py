"""What one frontend exports the others go on with: terminal, page and API, in every direction."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from api_support import ScriptedRuntime as ScriptedApiRuntime, serving
from glm_frontend_cli import _files as cli_files
from glm_frontend_cli._texts import Texts as CliTexts
from glm_frontend_web._handlers import PageHandlers
from glm_frontend_web._log import ConversationLog
from glm_frontend_web._page import Page
from glm_frontend_web._session import WindowState
from glm_frontend_web._texts import SAY
from glm_frontend_web._work import PageWork
from gradio import EventData
from web_support import ScriptedRuntime

from glm_core import Message, ModelInfo, Sampling, ToolCall
from glm_core.conversation import Conversation, Turn, parse_conversation, to_json

STEPS = (
    Message("assistant", "One moment.", (ToolCall("c1", "weather", '{"city": "Paris"}'),)),
    Message("tool", "rain", tool_call_id="c1"),
)
CONVERSATION = Conversation(
    turns=[
        Turn(
            "你好", "您好！\n\n```python\nprint('## User <!-- glm:user -->')\n```\n## User <!-- glm:user -->"
        ),
        Turn("How is the weather?", "It rains.", STEPS),
    ],
    system="Be brief.",
    adapter="law",
    sampling=Sampling(max_length=512, top_p=0.5, temperature=0.25, do_sample=True, top_k=5),
    seed=7,
    title="Rain",
)
KINDS = pytest.mark.parametrize("kind", ["json", "md"])


class WebWindow:
    """One visitor's page without a browser: exporting and importing as the buttons do."""

    def __init__(self, language: Any = "en") -> None:
        self.page = SimpleNamespace(**{field.name: field.name for field in dataclasses.fields(Page)})
        model = ScriptedRuntime(adapters=("law",)).model
        page: Any = self.page
        self._handlers = PageHandlers(model, page, PageWork())
        say = SAY[language]
        self.session = WindowState(say, ConversationLog(say, demo=False), is_shown=True)
        self.values: dict[str, Any] = {}

    def import_file(self, path: Path) -> str:
        """Choose a file; return the line of status."""
        file = {"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()}
        self.values = self._handlers.import_file(self.session, EventData(None, file))
        return str(self.values["status"])

    def export(self, kind: str) -> str:
        """Return the text of the file that the browser would make."""
        values = self.values
        chosen = [values[name] for name in ("system", "adapter", "max_length", "top_p", "temperature")]
        chosen[1] = "=law"  # the update of a menu is more than its value
        return str(json.loads(self._handlers.export(kind, self.session, *chosen)["download"])["text"])


def save_in_terminal(path: Path, conversation: Conversation) -> Path:
    """Save as the terminal chat does; return the path."""
    cli_files.save(conversation, path, CliTexts("en"))
    return path


@KINDS
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_goes_on_where_the_terminal_saved_and_back(tmp_path: Path, kind: str, language: str) -> None:
    """Tools, settings that the page cannot show, title and headings of the other language survive."""
    window = WebWindow(language)
    status = window.import_file(save_in_terminal(tmp_path / f"from-cli.{kind}", CONVERSATION))
    assert "2" in status
    assert window.values["system"] == "Be brief."
    assert [window.values[name] for name in ("max_length", "top_p", "temperature")] == [512, 0.5, 0.25]
    exported = tmp_path / f"from-web.{kind}"
    exported.write_text(window.export(kind), encoding="utf-8")
    loaded = cli_files.load(exported, CliTexts("en"))
    assert loaded == dataclasses.replace(CONVERSATION, model="scripted")


@KINDS
def test_a_question_that_waits_returns_to_the_input_box(tmp_path: Path, kind: str) -> None:
    """A question without an answer is no turn; the visitor may send or change it."""
    window = WebWindow()
    window.import_file(
        save_in_terminal(tmp_path / f"a.{kind}", Conversation([Turn("q", "a")], unanswered="and now?"))
    )
    assert window.values["question"] == "and now?"
    assert window.session.conversation.turns == [Turn("q", "a")]


def test_an_adapter_that_is_not_loaded_is_told(tmp_path: Path) -> None:
    """The page names it and uses the base model."""
    window = WebWindow()
    assert "poems" in window.import_file(save_in_terminal(tmp_path / "a.json", Conversation(adapter="poems")))
    assert window.session.conversation.adapter is None


def test_a_wrong_file_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    """The conversation stays as it was."""
    window = WebWindow()
    window.session.conversation = Conversation([Turn("q", "a")])
    path = tmp_path / "wrong<b>.json"
    path.write_text('{"version": 1, "messages": [5]}')
    status = window.import_file(path)
    assert "wrong&lt;b&gt;.json" in status
    assert "message 1" in status
    assert window.session.conversation.turns == [Turn("q", "a")]


class ToolRuntime(ScriptedApiRuntime):
    """A scripted model with a format for tools."""

    @property
    def info(self) -> ModelInfo:
        """Facts, with the feature."""
        return dataclasses.replace(super().info, features=frozenset({"tools"}))


def test_messages_of_a_file_are_a_request_to_the_api() -> None:
    """OpenAI's clients can send them as they are; the model gets what was said, calls included."""
    runtime = ToolRuntime()
    messages = json.loads(to_json(CONVERSATION))["messages"]
    with serving(runtime.model) as served:
        body = {"model": "default", "messages": [*messages, {"role": "user", "content": "say fine"}]}
        answer = served.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert runtime.requests[-1].messages[2:6] == (
        Message("user", "How is the weather?"),
        *STEPS,
        Message("assistant", "It rains."),
    )
    document = {"version": 1, "messages": [*body["messages"], answer]}
    conversation = parse_conversation(json.dumps(document).encode(), "from the API")
    assert conversation.turns == [*CONVERSATION.turns, Turn("say fine", "fine")]
