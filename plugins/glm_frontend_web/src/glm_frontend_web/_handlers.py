"""What happens when a visitor does something: the events of the page."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from glm_core import ChatModel, GlmError
from glm_core.cleaning import clean_text
from glm_core.conversation import Conversation, to_json, to_markdown

from ._importing import read_import
from ._log import ConversationLog
from ._page import (
    Page,
    choose_language,
    describe_adapter_menu,
    encode_adapter,
    is_demo,
    read_settings,
    show_settings,
    translate_page,
)
from ._scripts import DOWNLOAD, FOCUS, READY, REMEMBER_LANGUAGE, REMEMBERED_LANGUAGE, TOGGLE_THEME
from ._session import WindowState, answer, get_question
from ._settings import PageSettings, reset_hidden_settings
from ._texts import SAY
from ._work import PageWork

Updates = dict[Any, Any]


class PageHandlers:
    """The events of one page.

    Args:
        model: what answers; shared by all visitors.
        page: its components; whatever a visitor has of their own is in the session.
        work: counts the answers that run.
    """

    def __init__(self, model: ChatModel, page: Page, work: PageWork) -> None:
        self._model = model
        self._page = page
        self._work = work
        self._first_adapter = PageSettings.from_model(model.info).adapter

    def connect(self, blocks: gr.Blocks) -> None:
        """Bind every event."""
        page = self._page
        on = _bind
        everything = [
            component for name, component in vars(page).items() if name not in ("session", "sidebar")
        ]
        shown = [page.log, page.status, page.send, page.stop, page.question, page.editing, page.editing_note]
        shown.append(page.adapter)
        asking = [page.question, page.session, *page.settings]
        again = [page.session, *page.settings]
        both = [page.language, page.session]
        spoken = (
            on([blocks.load], self.load, both, everything, js=REMEMBERED_LANGUAGE),
            on([page.language.input], self.change_language, both, everything, js=REMEMBER_LANGUAGE),
        )
        for event in spoken:
            _run_script_after(event, [page.language], READY)
        on([page.question.submit, page.send.click], self.send, asking, shown)
        on([page.log.example_select], self.send_example, again, shown)
        on([page.log.retry], self.regenerate, again, shown)
        on([page.stop.click], self.stop, [page.session], [])
        _run_script_after(on([page.log.edit], self.edit, [page.session], shown), [], FOCUS)
        on([page.cancel_edit.click], self.cancel_edit, [page.session], shown)
        on([page.log.delete], self.delete, [page.session], shown)
        on([page.undo.click], self.undo, [page.session], shown)
        on([page.clear.click], self.clear, [page.session], shown)
        on([page.reset.click], self.reset, [page.session], everything)
        looking = [page.sidebar.expand, page.adapter.focus]
        on(looking, self.refresh_adapters, [page.adapter, page.session], [page.adapter, page.status])
        on([page.import_file.upload], self.import_file, [page.session], everything)
        for button, kind in ((page.export_json, "json"), (page.export_markdown, "md")):
            export = partial(self.export, kind)
            _run_script_after(
                on([button.click], export, again, [page.download, page.status]), [page.download], DOWNLOAD
            )
        page.theme.click(None, None, None, js=TOGGLE_THEME, queue=False, api_visibility="private")

    def load(self, remembered: str | None, session: WindowState, request: gr.Request) -> Updates:
        """Show a page that was opened in the visitor's language."""
        session.is_shown = True
        say = SAY.get(remembered) if remembered in SAY else None
        updates = self._translate(session, say or choose_language(request.headers.get("accept-language")))
        return {**updates, **self._update_menu(session, self._get_default_settings().adapter)}

    def change_language(self, language: str, session: WindowState) -> Updates:
        """Show the page in the language that the visitor chose."""
        if not session.is_shown:
            return self._show_note(session.say("window_ended"))
        return self._translate(session, SAY["zh" if language == "zh" else "en"])

    async def send(
        self,
        question: str,
        session: WindowState,
        system: str,
        adapter: str,
        length: float,
        top_p: float,
        temperature: float,
    ) -> AsyncGenerator[Updates]:
        """Answer the question that was typed."""
        settings = read_settings(system, adapter, length, top_p, temperature)
        question = clean_text(question or "").strip()
        if not question:
            yield self._show_note(session.say("empty_question"))
            return
        async with aclosing(self._answer(question, session, settings, at=session.editing)) as answering:
            async for updates in answering:
                yield updates

    async def send_example(
        self,
        session: WindowState,
        system: str,
        adapter: str,
        length: float,
        top_p: float,
        temperature: float,
        event: gr.EventData,
    ) -> AsyncGenerator[Updates]:
        """Answer the example that was chosen."""
        settings = read_settings(system, adapter, length, top_p, temperature)
        examples = session.say.list_examples(demo=is_demo(self._model.info))
        index = _read_event(event).get("index")
        if isinstance(index, int) and 0 <= index < len(examples):
            async with aclosing(self._answer(examples[index], session, settings, at=None)) as answering:
                async for updates in answering:
                    yield updates

    async def regenerate(
        self,
        session: WindowState,
        system: str,
        adapter: str,
        length: float,
        top_p: float,
        temperature: float,
        event: gr.EventData,
    ) -> AsyncGenerator[Updates]:
        """Regenerate an answer."""
        settings = read_settings(system, adapter, length, top_p, temperature)
        try:
            index = _read_event(event).get("index")
            question = get_question(session.conversation, index)
        except GlmError as error:
            yield self._show_note(session.say("error", message=error))
            return
        async with aclosing(self._answer(question, session, settings, at=index, again=True)) as answering:
            async for updates in answering:
                yield updates

    def stop(self, session: WindowState) -> None:
        """Stop the running answer; its own event shows the rest."""
        if session.answer is not None:
            session.answer.stop()

    def edit(self, session: WindowState, event: gr.EventData) -> Updates:
        """Put a question into the input box to be changed."""
        return self._apply(session, partial(self._edit, _read_event(event).get("index")))

    def cancel_edit(self, session: WindowState) -> Updates:
        """Leave the question as it was."""
        session.editing = None
        return {**self._show_editing(session), self._page.question: ""}

    def delete(self, session: WindowState, event: gr.EventData) -> Updates:
        """Delete a turn."""
        return self._apply(session, partial(self._delete, _read_event(event).get("index")))

    def undo(self, session: WindowState) -> Updates:
        """Take back the last turn and return its question to the input box."""
        return self._apply(session, self._undo)

    def clear(self, session: WindowState) -> Updates:
        """Begin a new conversation."""
        return self._apply(session, self._clear)

    def reset(self, session: WindowState) -> Updates:
        """Reset settings and adapter to the model's own defaults; the system prompt stays."""
        defaults = self._get_default_settings()
        reset_hidden_settings(session.conversation)
        updates = show_settings(self._page, defaults)
        del updates[self._page.system]
        return {
            **updates,
            **self._update_menu(session, defaults.adapter),
            **self._show_note(session.say("reset_done")),
        }

    def refresh_adapters(self, adapter: str, session: WindowState) -> Updates:
        """Show the adapters that are loaded now, since the visitor looks at their menu."""
        loaded, chosen = self._model.info.adapters, read_settings("", adapter, 0, 1, 1).adapter
        if chosen is not None and chosen not in loaded:
            note = self._show_note(session.say("adapter_removed_choice", name=chosen))
            return {**self._update_menu(session, None), **note}
        if loaded == session.adapters:
            return {self._page.adapter: gr.skip()}
        return self._update_menu(session, chosen)

    def export(self, kind: str, session: WindowState, *settings: Any) -> Updates:
        """Export the conversation as a file that the browser makes, so that nothing is left on the server."""
        conversation, say = session.conversation, session.say
        if not session.is_shown:
            return self._show_note(say("window_ended"))
        try:
            read_settings(*settings).apply_to(conversation)
        except GlmError as error:
            return self._show_note(say("error", message=error))
        conversation.model = self._model.info.name
        if kind == "json":
            text, media_type = to_json(conversation), "application/json"
        else:
            text, media_type = to_markdown(conversation, say.language), "text/markdown"
        file = {"name": time.strftime(f"conversation-%Y%m%d-%H%M%S.{kind}"), "type": media_type, "text": text}
        return {self._page.download: json.dumps(file), **self._show_note(say("exported"))}

    def import_file(self, session: WindowState, event: gr.EventData) -> Updates:
        """Go on with the conversation of a file, which the page's script has read."""
        file = _read_event(event)
        return self._apply(session, partial(self._import, file.get("name"), file.get("content")))

    async def _answer(
        self,
        question: str,
        session: WindowState,
        settings: PageSettings,
        *,
        at: int | None,
        again: bool = False,
    ) -> AsyncGenerator[Updates]:
        refusal = self._find_refusal(session) or ("stopping" if self._work.is_draining else "")
        if refusal:
            yield self._show_note(session.say(refusal))
            return
        page, loaded = self._page, self._model.info.adapters
        if settings.adapter is not None and settings.adapter not in loaded:
            note = self._show_note(session.say("adapter_removed", name=settings.adapter))
            yield {**self._update_menu(session, None), **note}
            return
        updates: Updates = {page.send: gr.update(visible=False), page.stop: gr.update(visible=True)}
        if loaded != session.adapters:
            updates |= self._update_menu(session, settings.adapter)
        if not again:
            updates |= {page.question: "", page.editing: gr.update(visible=False)}
        status, pieces = "", None
        asked = answer(self._model, session, question, settings, at=at, again=again)
        with self._work.count():
            async with aclosing(asked) as answering:
                async for progress in answering:
                    if progress.pieces != pieces:
                        updates[page.log] = pieces = progress.pieces
                    if progress.status != status:  # else a note that was shown meanwhile would be wiped out
                        updates |= self._show_note(status := progress.status)
                    if not progress.running:
                        updates |= {page.send: gr.update(visible=True), page.stop: gr.update(visible=False)}
                        updates |= self._show_editing(session)
                        if progress.given_back:
                            updates[page.question] = progress.given_back
                    yield updates or {page.log: gr.skip()}
                    updates = {}

    def _get_default_settings(self) -> PageSettings:
        """Return the model's own settings, with the only adapter of the start while that is loaded."""
        info = self._model.info
        adapter = self._first_adapter if self._first_adapter in info.adapters else None
        return dataclasses.replace(PageSettings.from_model(info), adapter=adapter)

    def _update_menu(self, session: WindowState, chosen: str | None) -> Updates:
        """Return the update of the menu of adapters, with one of them chosen or the base model."""
        info = self._model.info
        session.adapters = info.adapters
        return {
            self._page.adapter: gr.update(
                **describe_adapter_menu(info, session.say), value=encode_adapter(chosen)
            )
        }

    def _show_note(self, text: str) -> Updates:
        return {self._page.status: escape(text)}

    def _show_editing(self, session: WindowState) -> Updates:
        index = session.editing
        note = "" if index is None else escape(session.say("editing", number=index + 1))
        return {self._page.editing: gr.update(visible=index is not None), self._page.editing_note: note}

    def _translate(self, session: WindowState, say: Any) -> Updates:
        session.say = say
        session.log = ConversationLog(say, demo=is_demo(self._model.info))
        session.adapters = self._model.info.adapters
        updates = translate_page(self._page, self._model, say)
        if not session.is_answering:
            log = session.log.render(session.conversation.turns)
            updates[self._page.log] = gr.update(label=say("log_label"), value=log)
        return {**updates, **self._show_editing(session), **self._show_note("")}

    def _apply(self, session: WindowState, change: Any) -> Updates:
        """Run ``change`` on a conversation at rest, and show the result or what was wrong."""
        refusal = self._find_refusal(session)
        if refusal:
            return self._show_note(session.say(refusal))
        try:
            updates: Updates = change(session)
        except GlmError as error:
            return self._show_note(session.say("error", message=error))
        pieces = session.log.render(session.conversation.turns)
        return {self._page.log: pieces, **self._show_editing(session), **updates}

    def _find_refusal(self, session: WindowState) -> str:
        """Return the text that says why the conversation cannot go on now; empty if it can."""
        if not session.is_shown:
            return "window_ended"
        return "still_answering" if session.is_answering else ""

    def _edit(self, index: Any, session: WindowState) -> Updates:
        question = get_question(session.conversation, index)
        session.editing = index
        return {self._page.question: question, **self._show_note("")}

    def _delete(self, index: Any, session: WindowState) -> Updates:
        get_question(session.conversation, index)  # refuses a wrong index
        del session.conversation.turns[index]
        session.editing = None
        return self._show_note(session.say("deleted", number=index + 1))

    def _undo(self, session: WindowState) -> Updates:
        session.editing = None
        question = session.conversation.undo()
        if question is None:
            return self._show_note(session.say("nothing_yet"))
        return {self._page.question: question, **self._show_note(session.say("undone"))}

    def _clear(self, session: WindowState) -> Updates:
        session.editing, session.conversation = None, Conversation()
        return self._show_note(session.say("cleared"))

    def _import(self, name: object, content: object, session: WindowState) -> Updates:
        info, say = self._model.info, session.say
        conversation = read_import(name, content, say)
        note = session.say("imported", count=len(conversation.turns))
        if conversation.adapter is not None and conversation.adapter not in info.adapters:
            note += " · " + session.say("adapter_dropped", name=conversation.adapter)
            conversation.adapter = None
        updates = show_settings(self._page, PageSettings.from_conversation(conversation, info))
        if conversation.unanswered is not None:  # to be sent again, or changed
            updates[self._page.question], conversation.unanswered = conversation.unanswered, None
        session.conversation, session.editing = conversation, None
        return {**updates, **self._update_menu(session, conversation.adapter), **self._show_note(note)}


def _read_event(event: gr.EventData) -> Mapping[str, Any]:
    """Return what the page's script says of an event; another program may have sent anything."""
    return event._data if isinstance(event._data, dict) else {}


def _bind(
    triggers: list[Any], function: Any, inputs: list[Any], outputs: list[Any], *, js: str | None = None
) -> Any:
    """Bind one function to several events, as this page wants all of its events.

    They are not part of gradio's own API: the page is for people, programs have ``glm run api``. There is
    no limit on how many run, since the engine has a queue of its own.
    """
    return gr.on(
        triggers,
        function,
        inputs,
        outputs,
        js=js,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
        trigger_mode="once",
    )


def _run_script_after(event: Any, inputs: list[Any], js: str) -> None:
    """Run a script in the browser when the server has answered ``event``."""
    event.then(None, inputs, None, js=js, queue=False, show_progress="hidden", api_visibility="private")
