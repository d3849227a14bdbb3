"""The app, shared by the tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from app_page import Visit
from app_process import running
from playwright.sync_api import Browser


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
