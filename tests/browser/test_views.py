"""Every view and every control in Chromium, addresses, buttons, keyboard, themes."""

import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
from app_page import PATIENCE
from catalogue import CARDS
from PIL import Image
from playwright.sync_api import expect

TITLES = {
    "Overview": ["Transfer: alignment"],
    "Sub-bands": ["Wavelet sub-bands · haar", "Energy per sub-band · student"],
    "Spectra": ["Energy spectrum", "Radial energy spectrum", "Relative log amplitude over depth"],
    "Gaussian masks": ["Gaussian mask · low-pass"],
    "DS2S": ["DS2S · student .* trained"],
    "CKA": ["teacher × student \\(sfkd\\)", "teacher × student alone"],
    "Attribution": ["Attribution in the wavelet domain"],
    "Ablation": ["Band ablation"],
    "Training": ["Training · demo"],
}


def test_the_first_view_needs_no_click(visit):
    page = visit()
    assert page.drawn("Transfer: alignment")["traces"] == 8
    page.answer("alignment .* alone")
    for word in ("teacher", "student alone", "student (sfkd)", "convnext_atto", "swin_tiny", "fashion_mnist", "%"):
        expect(page.page.locator("body")).to_contain_text(word)
    page.verdict("T shirt")
    assert page.page.url == page.address


def test_every_view_is_drawn_and_named(visit):
    page = visit()
    for view, titles in TITLES.items():
        page.open(view)
        for title, label in zip(titles, CARDS[view].figures, strict=True):
            shown = page.drawn(title)
            assert shown["traces"] >= 1
            assert len(shown["values"]) > 0
            assert shown["height"] >= 180
            expect(page.figure(title)).to_have_attribute("aria-label", re.compile(re.escape(label)))
        page.answer(r".{40,}")
        page.query(r"/$" if view == "Overview" else f"view={view.lower().replace(' ', '-')}")


def test_controls_change_the_figure_and_the_address(visit):
    page = visit("view=sub-bands")
    page.drawn("Wavelet sub-bands · haar")
    page.choose("Wavelet", "db2")
    page.drawn("Wavelet sub-bands · db2")
    page.choose("Channel", "principal component 1")
    page.drawn("principal component 1")
    page.choose("Channel", "one channel")
    page.page.get_by_label("Channel number").fill("2")
    page.drawn("channel 2")
    page.choose("Levels", "1")
    page.page.wait_for_function(_TRACES, arg=3 * 4, timeout=PATIENCE)  # A1, H1, V1, D1 of three models
    page.choose("Band", "H1")
    page.page.wait_for_function(_TRACES, arg=3, timeout=PATIENCE)
    page.query(r"view=sub-bands&wavelet=db2&levels=1&band=H1&channel=2$")
    page.choose("Layer: student ↔ teacher", "layers.1 ↔ stages.2")
    page.answer("layers.1 ↔ stages.2")
    page.query("layer=layers.1,stages.2")
    page.open("Ablation")
    page.choose("Model", "teacher")
    page.drawn("Band ablation · teacher")
    page.open("Attribution")
    page.page.get_by_label("the chosen layer").check()
    page.drawn("Attribution .* teacher, stages.2")
    page.query("view=attribution.*model=teacher.*site=layer")


_TRACES = """n => [...document.querySelectorAll('figure')].some(f => f.offsetWidth
    && f.querySelector('.title').textContent.includes('Wavelet sub-bands') && f.querySelector('.plot').data?.length === n)"""


def test_sigma_moves_smoothly_and_zoom_stays(visit):
    page = visit("view=gaussian-masks")
    before = page.drawn("σ = 0.25 ")
    figure = page.page.locator("figure:visible")
    figure.evaluate(
        "f => window.Plotly.relayout(f.querySelector('.plot'), {'xaxis2.range': [4, 20], 'yaxis2.range': [20, 4]})"
    )
    slider = page.page.get_by_label("range slider for Sigma (cycles/pixel)")
    slider.focus()
    for _ in range(5):
        page.page.keyboard.press("ArrowRight")
    after = page.drawn("σ = 0.3 ")
    assert after["values"] != before["values"]
    zoomed = figure.evaluate("f => f.querySelector('.plot')._fullLayout.xaxis2.range")
    np.testing.assert_allclose(zoomed, [4, 20])
    page.query("sigma=0.3")
    page.page.get_by_label("number input for Sigma (cycles/pixel)").fill("0.1")
    page.drawn("σ = 0.1 ")
    page.button("σ = 0.1 ", "Reset zoom").click()
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('figure .plot')].some(p => p.offsetWidth && p._fullLayout.xaxis2.range[0] <= 0)"
    )


def test_a_link_opens_the_same_view(visit):
    page = visit("view=gaussian-masks&image=photo:cat&layer=layers.1,stages.2&channel=pc1&sigma=0.12")
    shown = page.drawn("σ = 0.12 ")
    page.verdict("photograph “cat”")
    page.answer("layers.1 ↔ stages.2")
    for label, value in (
        ("Layer: student ↔ teacher", "layers.1 ↔ stages.2"),
        ("Channel", "principal component 1"),
        ("number input for Sigma (cycles/pixel)", "0.12"),
    ):
        expect(page.page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.page.get_by_role("radio", name="cat")).to_have_attribute("aria-checked", "true")
    expect(page.page.get_by_role("tab", name="Gaussian masks")).to_have_attribute("aria-selected", "true")
    again = visit(page.page.url.partition("?")[2])
    assert again.drawn("σ = 0.12 ")["values"] == shown["values"]


def test_an_address_that_asks_for_what_is_not_there(visit):
    page = visit("view=spectra&wavelet=walsh&sigma=40&utm=1&run=../../etc")
    page.drawn("Energy spectrum")
    remark = page.page.locator(".remark")
    for word in ("wavelet", "sigma", "utm", "pair"):
        expect(remark).to_contain_text(word)
    page.query(r"\?view=spectra$")


def test_the_numbers_and_pictures_of_a_figure_are_saved(visit, tmp_path):
    page = visit("view=spectra")
    title = "Radial energy spectrum"
    page.drawn(title)

    def saved(name):
        with page.page.expect_download() as download:
            page.button(title, name).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    table = list(csv.DictReader(io.StringIO(saved("CSV").read_text())))
    assert {row["trace"].rpartition(" (")[0] for row in table} == {
        "teacher · stages.0",
        "student alone · layers.0",
        "student (sfkd) · layers.0",
    }
    assert all(float(row["y"]) > 0 for row in table)
    png = saved("PNG")
    with Image.open(png) as image:
        assert image.width > 1500
        assert min(np.asarray(image.convert("RGBA"))[..., 3].ravel()) == 255, "a ground that is not opaque"
    svg = saved("SVG").read_text()
    assert svg.startswith("<svg")
    assert "Radial energy spectrum" in svg
    alone = saved("HTML")
    other = visit()
    other.page.goto("about:blank")  # what the app's page still asks for is asked before the address changes
    other.address = f"file://{alone}"
    other.page.goto(other.address)
    expect(other.page.locator(".gtitle")).to_contain_text("Radial energy spectrum")


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("", "Transfer: alignment"),
        ("view=sub-bands&band=H1&image=photo:cat", "Wavelet sub-bands"),
        ("view=ds2s", "DS2S"),
    ],
)
def test_the_python_under_a_figure_runs_as_pasted(visit, tmp_path, query, title):
    page = visit(query)
    shown = page.drawn(title)
    page.button(title, "Python").click()
    expect(page.button(title, "Python")).to_have_attribute("aria-expanded", "true")
    page.button(title, "Copy").click()
    expect(page.button(title, "Copied")).to_be_visible()
    pasted = page.page.evaluate("navigator.clipboard.readText()")
    script = tmp_path / "pasted.py"
    script.write_text(pasted)
    command = [
        sys.executable,
        "-c",
        f"import plotly.io; plotly.io.renderers.default = ''; exec(open({str(script)!r}).read())",
    ]
    command[-1] += "; open('figure.json', 'w').write(figure.to_json())"
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    figure = go.Figure(json.loads((tmp_path / "figure.json").read_text()))
    assert len(figure.data) == shown["traces"]
    drawn = figure.data[0].z
    assert drawn is not None


def test_the_page_by_keyboard_alone(visit):
    page = visit()
    page.drawn("Transfer: alignment")
    keys = page.page.keyboard
    page.page.get_by_role("radio", name="T shirt").first.focus()
    keys.press("ArrowRight")
    page.verdict("Trouser")
    page.page.get_by_role("tab", name="Overview").focus()
    keys.press("ArrowRight")
    page.drawn("Wavelet sub-bands")
    expect(page.page.get_by_role("tab", name="Sub-bands")).to_be_focused()
    page.button("Wavelet sub-bands", "Python").focus()
    keys.press("Enter")
    expect(page.figure("Wavelet sub-bands").locator("pre")).to_be_visible()


def test_everything_that_can_be_used_has_a_name(visit):
    page = visit()
    for view in CARDS:
        page.open(view)
        page.drawn(TITLES[view][0])
        nameless = page.page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, textarea, [role=radiogroup], figure')]
                .filter(e => e.offsetParent !== null)
                .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.title || e.placeholder
                    || (e.labels && [...e.labels].some(l => l.textContent.trim())) || e.getAttribute('aria-labelledby')))
                .map(e => e.outerHTML.slice(0, 200))"""
        )
        assert nameless == []


def test_dark_and_light_are_both_readable_and_can_be_changed(visit):
    page = visit("__theme=dark")

    def lightness(colour):
        return sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3

    def ink():
        return lightness(page.page.locator("figure .annotation-text").first.evaluate("t => getComputedStyle(t).fill"))

    page.drawn("Transfer: alignment")
    assert ink() > 180
    page.page.get_by_role("button", name="Light / dark").click()
    page.page.wait_for_function("() => document.querySelector('figure .plot')._fullLayout.font.color === '#2a2f36'")
    assert ink() < 90


@pytest.mark.parametrize("width", [1024, 1366])
def test_nothing_hangs_over_the_edge(visit, width):
    page = visit(width=width, height=800)
    for view, titles in TITLES.items():
        if view in ("Attribution", "Ablation"):
            continue
        page.open(view)
        page.drawn(titles[0])
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        tab = page.page.get_by_role("tab", name=view, exact=True)
        expect(tab).to_be_visible()


def test_a_long_computation_tells_how_far_it_is_and_stops(visit):
    page = visit("view=ablation&wavelet=bior1.3&levels=3&image=mean:240")
    progress = page.page.locator(".progress")
    expect(progress).to_contain_text(re.compile(r"Ablation of the student \(sfkd\).*\d+ %"))
    page.page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(progress).to_be_hidden()
    page.open("Spectra")
    page.drawn("Energy spectrum")


def test_a_browser_window_that_changes(visit):
    page = visit("view=sub-bands")
    page.drawn("Wavelet sub-bands")
    page.open("Overview")
    page.drawn("Transfer: alignment")
    page.page.set_viewport_size({"width": 1024, "height": 800})
    page.open("Sub-bands")
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('figure .plot')].filter(p => p.offsetWidth)"
        ".every(p => p._fullLayout && Math.abs(p._fullLayout.width - p.offsetWidth) < 2)"
    )
