"""One server for each kind of model, one browser for each module, one fresh window for each test."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS
from web_support import BROWSER_ARGUMENTS, Site, chromium, site


@pytest.fixture(scope="session")
def scripted_site() -> Iterator[Site]:
    """The page on a scripted model without adapters."""
    with site() as running:
        yield running


@pytest.fixture(scope="session")
def demo_site() -> Iterator[Site]:
    """The page on the bundled demo model."""
    with site(demo=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium. Of a module, since playwright's event loop forbids others beside it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        driver.selectors.set_test_id_attribute("id")
        browser = driver.chromium.launch(executable_path=path, args=list(BROWSER_ARGUMENTS))
        playwright.expect.set_options(timeout=PATIENCE_SECONDS * 1000)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a site in a window of its own; keyword arguments are the window's. Pictures are kept."""
    windows: list[Any] = []

    def open_window(opened: Site, **options: Any) -> Any:
        context = browser.new_context(
            **{"locale": "en-GB", "viewport": {"width": 1100, "height": 760}} | options
        )
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        windows.append(context)
        page = context.new_page()
        page.goto(opened.url)
        page.get_by_test_id("status").wait_for(state="attached")
        page.wait_for_function("document.documentElement.dataset.glm === 'ready'")
        return page

    yield open_window
    pictures = Path(os.environ.get("GLM_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    for number, context in enumerate(windows):
        for page in context.pages:
            name = re.sub(r"\W+", "-", request.node.name)
            page.screenshot(path=pictures / f"{name}-{number}.png")
        context.close()
