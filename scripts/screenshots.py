"""Makes docs/images/web.png and web-dark.png: real conversations with the demo model in `glm run web`.

    python scripts/screenshots.py [FOLDER]

Starts the page, chats in a browser as a newcomer would, in Chinese by day and in English by night, and
takes its picture. Needs playwright, chromium, and a font with Chinese characters (Debian:
fonts-noto-cjk).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

PICTURES = (
    ("web.png", "zh-CN", "light", ("你好", "没有网络能用吗？", "怎么量化模型？"), False),
    ("web-dark.png", "en-GB", "dark", ("Who are you?", "How do I run my own checkpoint?"), True),
)
SIZE = {"width": 1200, "height": 700}


def main(folder: Path) -> None:
    """Serve the page, take the pictures, stop."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "glm_core", "run", "web", "--port", "0"]
    environment = {**os.environ, "GLM_LANG": "en"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().partition(" at ")[2].split()[0]
            with sync_playwright() as driver:
                browser = driver.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
                )
                for name, locale, scheme, questions, settings in PICTURES:
                    picture = _take_picture(browser, url, locale, scheme, questions, settings)
                    _write(picture, folder / name)
                browser.close()
        finally:
            server.terminate()


def _take_picture(
    browser: Browser, url: str, locale: str, scheme: str, questions: tuple[str, ...], settings: bool
) -> bytes:
    context = browser.new_context(locale=locale, viewport=SIZE)
    page = context.new_page()
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(url)
    page.wait_for_function("document.documentElement.dataset.glm === 'ready'")
    if settings:
        page.locator("#settings .toggle-button").click()
    for number, question in enumerate(questions, start=1):
        page.locator("#question textarea").fill(question)
        page.keyboard.press("Enter")
        expect(page.locator(".glm-answer .glm-actions")).to_have_count(number, timeout=60_000)
    page.wait_for_timeout(600)  # for the sidebar to have slid in
    picture = page.screenshot()
    context.close()
    return picture


def _write(picture: bytes, path: Path) -> None:
    """Write a small file: few colours, which is all that a page of text has."""
    from PIL import Image

    with tempfile.TemporaryFile() as file:
        file.write(picture)
        with Image.open(file) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else root / "docs" / "images")
