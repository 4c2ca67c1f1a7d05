"""The chat itself: read a line, run a command or ask the model, again until the user is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm_core import BusyError, ChatModel, GlmError, Usage
from glm_core.cleaning import clean_text
from glm_core.conversation import SETTINGS, Conversation, Turn
from glm_core.language import format_count, get_language
from glm_core.listening import AnswerProgress
from glm_core.records import OpenModel

from . import _files
from ._answering import AnswerReader
from ._commands import describe_place, normalize_slash, run_command
from ._texts import Texts
from ._view import STATUS_SEPARATOR, PlainView, TypedLine, View


class Session:
    """One chat with one model.

    Attributes:
        saved_paths: files that were written, which may be written again.
        usage: what the last answer took.

    Args:
        model: what answers.
        conversation: where to go on.
        view: where to read and show.
        say: the texts.
    """

    def __init__(self, model: ChatModel, conversation: Conversation, view: View, say: Texts) -> None:
        self.model = model
        self.view = view
        self.say = say
        self.conversation = conversation
        self.saved_paths: set[Path] = set()
        self.usage: Usage | None = None
        self._prefill = ""
        self._running = True
        self.use(conversation)

    def use(self, conversation: Conversation) -> None:
        """Go on with ``conversation``; if its adapter is not loaded, tell so and use the base model."""
        if conversation.adapter is not None and conversation.adapter not in self.model.info.adapters:
            self.view.show_notice(self.say("adapter_dropped", name=conversation.adapter))
            conversation.adapter = None
        conversation.model = self.model.info.name
        self.conversation = conversation
        self.usage = None

    def chat(self) -> None:
        """Read and answer until the user is done."""
        while self._running:
            prefill, self._prefill = self._prefill, ""
            line = self.view.read(prefill, self.describe_status(editing=bool(prefill)))
            if line is None:
                return
            self.handle(line, editing=bool(prefill))

    def handle(self, line: TypedLine, *, editing: bool = False) -> None:
        """Run the command in one line, or ask the question.

        Args:
            line: what was typed.
            editing: whether the last question had been put into the input line.
        """
        text = normalize_slash(clean_text(line.text).strip())
        replacing = editing and line.from_prefill and self.last_is_answered
        try:
            if not text:
                if editing:
                    self.view.show_notice(self.say("edit_kept"))
            elif text == "stop" or (self.view.can_prefill and text in ("exit", "quit")):
                self.quit()
            elif text == "clear":
                run_command(self, "/clear")
            elif text.startswith("//"):
                self.ask(text[1:], replacing=replacing)
            elif text.startswith("/"):
                run_command(self, text)
            else:
                self.ask(text, replacing=replacing)
        except GlmError as error:
            self.view.show_error(self.say("error", message=error))

    @property
    def last_question(self) -> str | None:
        """The question that ``/regenerate`` and ``/edit`` are about."""
        if self.conversation.unanswered is not None:
            return self.conversation.unanswered
        return self.conversation.turns[-1].question if self.conversation.turns else None

    @property
    def last_is_answered(self) -> bool:
        """Whether `last_question` is part of a turn, which asking it again replaces."""
        return self.conversation.unanswered is None and bool(self.conversation.turns)

    def ask(self, question: str, *, replacing: bool = False) -> None:
        """Have ``question`` answered, in place of the last turn if ``replacing``.

        A question that fails leaves the conversation as it was.
        """
        after = max(len(self.conversation.turns) - 1, 0) if replacing else None
        try:
            with_tools = "tools" in self.model.info.features
            request = self.conversation.build_request(question, after=after, with_tools=with_tools)
            with AnswerReader(lambda: self.model.stream(request)) as reader:
                self.view.show_answer(reader)
        except GlmError as error:
            if not replacing:
                self.conversation.unanswered = question
            busy = isinstance(error, BusyError)
            self.view.show_error(self.say("busy") if busy else self.say("error", message=error))
            return
        answer = reader.progress
        if answer.finish_reason is None and not answer.text.strip():
            if not replacing:
                self.conversation.unanswered = question
            self.view.show_notice(self.say("stopped_before_text"))
            return
        self.usage = answer.usage
        self.conversation.record(Turn(question, answer.text), after=after)
        self._report_unusual(answer)

    def edit(self, question: str) -> None:
        """Put ``question`` into the next input line."""
        self._prefill = question

    def quit(self) -> None:
        """End the loop."""
        self._running = False

    def describe_status(self, *, editing: bool = False) -> str:
        """Return one line for the toolbar."""
        parts = [self.say("status_editing")] if editing else []
        parts.append(self.model.info.name)
        if self.conversation.adapter:
            parts.append(self.say("status_adapter", name=self.conversation.adapter))
        parts.append(self.say("status_turns", count=len(self.conversation.turns)))
        if self.usage is not None:
            parts += self._describe_usage(self.usage)
        place = describe_place(self.model.info)
        parts += [place] if place else []  # last, since a narrow terminal drops parts from the end
        return STATUS_SEPARATOR.join(parts)

    def _describe_usage(self, usage: Usage) -> list[str]:
        parts = [self.say("status_tokens", count=usage.completion_tokens)]
        if usage.tokens_per_second:
            parts.append(self.say("status_speed", speed=usage.tokens_per_second))
        if usage.time_to_first_token:
            parts.append(self.say("status_first_token", seconds=usage.time_to_first_token))
        if usage.prompt_tokens:
            used = usage.prompt_tokens + usage.completion_tokens
            parts.append(self.say("status_context", percent=100 * used / self._compute_max_tokens()))
        return parts

    def _compute_max_tokens(self) -> int:
        """Return how many tokens a conversation may have before its oldest messages are left out."""
        info = self.model.info
        chosen = self.conversation.sampling.max_length or info.sampling.max_length
        return min(chosen or info.context_length, info.context_length)

    def _report_unusual(self, answer: AnswerProgress) -> None:
        """Tell what is unusual about an answer."""
        if answer.finish_reason is None:
            self.view.show_notice(self.say("stopped"))
        elif answer.finish_reason == "length":
            self.view.show_notice(self.say("length_reached"))
        elif not answer.text.strip():
            self.view.show_notice(self.say("empty_answer"))
        if answer.usage.dropped_messages:
            self.view.show_notice(self.say("messages_dropped", count=answer.usage.dropped_messages))


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Chat until the user is done; what ``glm run cli`` starts.

    Args:
        open_model: opens the model; called once the options are known to be right.
        options: as `plugin` lists them; all may be missing.

    Raises:
        GlmError: an option is wrong or the model cannot be opened.
    """
    say = Texts(get_language())
    conversation = _make_first_conversation(options, say)
    plain = bool(options.get("plain")) or not _is_terminal()
    if sys.stderr.isatty():
        print(say("loading"), file=sys.stderr, flush=True)
    with open_model() as model:
        _choose_only_adapter(model, conversation, options)
        if plain:
            view = PlainView()
            _announce_adapter(model, conversation, view, say)
            Session(model, conversation, view, say).chat()
        else:
            _run_in_terminal(model, conversation, options, say)


def _make_first_conversation(options: Mapping[str, Any], say: Texts) -> Conversation:
    path = options.get("load")
    conversation = _files.load(_files.parse_path(path), say) if path else Conversation()
    if options.get("system"):
        conversation.system = clean_text(options["system"])
    for name in SETTINGS:
        if options.get(name) is not None:
            conversation.change(name, options[name])
    return conversation


def _choose_only_adapter(model: ChatModel, conversation: Conversation, options: Mapping[str, Any]) -> None:
    """Use the adapter where exactly one is loaded: who loads one means to chat with it.

    A conversation from a file names its adapter itself.
    """
    if len(model.info.adapters) == 1 and not options.get("load"):
        conversation.adapter = model.info.adapters[0]


def _announce_adapter(model: ChatModel, conversation: Conversation, view: View, say: Texts) -> None:
    """Tell which adapter answers, or which there are to choose from."""
    loaded = model.info.adapters
    if conversation.adapter in loaded:
        view.show_notice(say("adapter_in_use", name=conversation.adapter))
    elif loaded:
        view.show_notice(say("adapters_loaded", names=", ".join(loaded)))


def _run_in_terminal(
    model: ChatModel, conversation: Conversation, options: Mapping[str, Any], say: Texts
) -> None:
    from ._terminal import open_terminal  # here, so that pipes pay for neither prompt_toolkit nor rich

    info = model.info
    view = open_terminal(lambda: model.info.adapters, say, keep_history=options.get("history", True))
    parameters = format_count(info.num_parameters)
    view.show(say("banner", model=info.name, family=info.family, parameters=parameters))
    view.show_notice(say("hint"))
    _announce_adapter(model, conversation, view, say)
    view.show("")
    session = Session(model, conversation, view, say)
    if conversation.turns:
        view.show_turns(conversation.turns)
    session.chat()
    view.show_notice(say("goodbye"))


def _is_terminal() -> bool:
    return (
        sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    )
