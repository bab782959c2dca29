"""A headless Chromium or Chrome, and what a page does in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """A running browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (extra test)")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the PATH")
    with playwright.sync_playwright() as running:
        # Containers run tests as root, where Chromium has no sandbox.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        program = running.chromium.launch(executable_path=found, args=options)
        try:
            yield program
        finally:
            program.close()


@dataclass
class Opened:
    """A page in a browser, and what it said and asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """How wide the page would like to be, pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def style(self, selector: str, name: str) -> str:
        """A computed style of the first element."""
        script = "([s, n]) => getComputedStyle(document.querySelector(s)).getPropertyValue(n)"
        return str(self.page.evaluate(script, [selector, name]))


@contextmanager
def opened(program: Any, path: Path, width: int = 1400, scheme: str = "light") -> Iterator[Opened]:
    """Open a file as it would be opened by hand, for a while."""
    context = program.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(10_000)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.errors.append(message.text))
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    try:
        found.page.goto(path.as_uri())
        yield found
    finally:
        context.close()
