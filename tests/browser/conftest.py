"""The app and a browser, shared by the tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from app_page import CHROMIUM, FLAGS, Visit
from app_process import running
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("app")
    with running(folder) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Visit]]:
    """Opens the page: `visit("view=spectra")`. What it asked of others and its errors fail the test."""
    visits: list[Visit] = []

    def open_page(query: str = "", **options: int) -> Visit:
        visits.append(Visit(browser, address, query, **options))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()
