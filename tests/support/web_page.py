"""The page as a visitor sees it: how to find and do things in it, whatever its markup."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect


class ChatPage:
    """Drives one window in the way a person would.

    Args:
        page: playwright's page, opened and ready.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def box(self) -> Locator:
        """The input."""
        return self.page.locator("#question textarea")

    @property
    def questions(self) -> Locator:
        """Every question that is shown."""
        return self.page.locator(".glm-question .glm-text")

    @property
    def answers(self) -> Locator:
        """Every answer that is shown, also one that is still coming."""
        return self.page.locator(".glm-answer .glm-markdown")

    @property
    def finished(self) -> Locator:
        """Every answer that is complete."""
        return self.page.locator(".glm-answer:not([aria-busy]) .glm-markdown")

    @property
    def status(self) -> Locator:
        """The line below the conversation."""
        return self.page.locator("#status").get_by_role("status")

    def button(self, name: str) -> Locator:
        """The button that is called ``name``."""
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, question: str) -> None:
        """Type a question and press Enter."""
        self.box.fill(question)
        self.send(question)

    def send(self, question: str) -> None:
        """Press Enter with a question in the box, and again should nothing happen.

        Gradio ignores a key that comes between the last piece of an answer and the word that it was
        the last; a person would press it again.
        """
        said = self.status.text_content()
        self.box.press("Enter")
        for _ in range(200):  # ten seconds: a busy machine is slow to show that it was pressed
            self.page.wait_for_timeout(50)
            answering = not self.page.locator("#send").is_visible()
            if answering or self.box.input_value() != question or self.status.text_content() != said:
                return
        self.box.press("Enter")

    def ask_and_wait(self, question: str) -> None:
        """Have a question answered to the end."""
        before = self.finished.count()
        self.ask(question)
        expect(self.finished).to_have_count(before + 1)

    def open_settings(self) -> None:
        """Open the sidebar."""
        self.page.locator("#settings .toggle-button").click()
        expect(self.page.locator("#reset")).to_be_in_viewport()

    def download(self, button: str) -> tuple[str, str]:
        """Press a button that downloads something; its file name and text."""
        with self.page.expect_download() as download:
            self.button(button).click()
        path = download.value.path()
        return download.value.suggested_filename, path.read_text("utf-8")

    def import_file(self, name: str, text: str) -> None:
        """Choose a file to import."""
        kind = "application/json" if name.endswith(".json") else "text/markdown"
        payload: Any = {"name": name, "mimeType": kind, "buffer": text.encode()}
        self.page.locator("#settings input[type=file]").set_input_files(payload)
