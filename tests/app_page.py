"""What the tests in a browser do with the page."""

from __future__ import annotations

import re
import shutil
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PATIENCE = 120_000  # milliseconds; a loaded machine is slow, not wrong
expect.set_options(timeout=PATIENCE)


class Visit:
    """A page in a browser context of its own; what it asks of others, and its errors, are remembered.

    Args:
        query: of the address. width, height: of the window.
    """

    def __init__(
        self, browser: Browser, address: str, query: str = "", *, width: int = 1366, height: int = 900
    ) -> None:
        self.address, self.outside, self.errors = address, [], []  # type: ignore[var-annotated]
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", self._note_request)
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.go(query)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.outside.append(request.url)

    def go(self, query: str = "") -> None:
        """Open the page anew."""
        self.page.goto(f"{self.address}{'?' * bool(query)}{query}")

    def close(self) -> None:
        """Close the page; it must have asked nothing of another machine and told of no error."""
        self.page.context.close()
        assert self.outside == []
        assert self.errors == []

    def open(self, view: str) -> None:
        """Open the tab of a view."""
        self.page.get_by_role("tab", name=view, exact=True).click()

    def figure(self, title: str) -> Locator:
        """The figure on show whose title matches, once it is drawn."""
        found = self.page.locator("figure:visible", has=self.page.locator(".title", has_text=re.compile(title))).first
        expect(found).to_be_visible()
        expect(found).to_have_attribute("data-drawn", re.compile(r"\d+"))
        expect(found).to_have_attribute("aria-busy", "false")
        return found

    def drawn(self, title: str) -> dict[str, Any]:
        """Numbers of a figure: traces, kind of the first, height, ranges of its first axes, first values."""
        return self.figure(title).evaluate(
            """figure => { const plot = figure.querySelector('.plot'); const layout = plot._fullLayout; return {
                traces: plot.data.length, type: plot.data[0].type, height: plot.clientHeight,
                x: layout.xaxis.range, y: layout.yaxis.range, ink: layout.font.color, ground: layout.paper_bgcolor,
                values: Array.from((plot._fullData[0].z || [plot._fullData[0].y]).slice(0, 3), row => Array.from(row)) } }"""
        )

    def choose(self, label: str, option: str) -> None:
        """An option of a dropdown."""
        self.page.get_by_label(label, exact=True).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def button(self, title: str, name: str) -> Locator:
        """A button of the figure whose title matches."""
        return self.figure(title).get_by_role("button", name=name, exact=True)

    def answer(self, text: str) -> None:
        """Wait for an answer that matches."""
        expect(self.page.locator(".answer:visible")).to_contain_text(re.compile(text))

    def verdict(self, text: str) -> None:
        """Wait for what is said about the image."""
        expect(self.page.locator(".verdict")).to_contain_text(text)

    def query(self, text: str) -> None:
        """Wait for an address that matches."""
        expect(self.page).to_have_url(re.compile(text))
