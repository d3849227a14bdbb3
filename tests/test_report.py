"""The report in a browser that may ask for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, Route

import sfkd
import sfkd_viz
from sfkd_viz.analysis import Analysis
from sfkd_viz.report import write_report


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    demo = sfkd.load_demo()
    loader = [(demo.samples.images, torch.as_tensor(demo.samples.labels))]
    measures = ["spectrum", "band_energy", "cka", "transfer", "ablation", "attribution"]
    run = demo.run
    return sfkd_viz.analyze(
        run.teacher, run.student, loader, run.baseline, measures=measures, samples=2, progress=False
    )


@pytest.fixture(scope="module")
def address(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = write_report(analysis, tmp_path_factory.mktemp("report") / "report.html")
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_offline_in_light_and_dark(
    browser: Browser, address: str, analysis: Analysis, scheme: str
) -> None:
    refused, errors = [], []

    def only_the_file(route: Route) -> None:
        if route.request.url == address:
            route.continue_()
        else:
            refused.append(route.request.url)
            route.abort()

    context = browser.new_context(color_scheme=scheme, viewport={"width": 1024, "height": 768}, offline=False)  # type: ignore[arg-type]
    page: Page = context.new_page()
    page.route("**/*", only_the_file)
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    figures = page.locator(".js-plotly-plot")
    # transfer, two alignments; spectra, energies and attribution of three models, ablation of two
    assert figures.count() == 1 + 2 + 3 + 3 + 3 + 2
    for number in range(figures.count()):
        figures.nth(number).locator("svg.main-svg").first.wait_for()
    assert page.locator(".sentence").inner_text() == analysis.sentence()
    assert page.locator("table tr").count() == 1 + 10
    grounds = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(f => f._fullLayout.paper_bgcolor)",
    )
    assert set(grounds) == {"#16191d" if scheme == "dark" else "white"}
    assert page.evaluate("document.documentElement.scrollWidth") <= 1024
    context.close()
    assert refused == []
    assert errors == []
