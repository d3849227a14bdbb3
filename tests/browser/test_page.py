"""The page in headless Chromium: every view and control, nothing asked of another machine, no error in the console."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PATIENCE = 120_000  # milliseconds; a loaded machine is slow, not wrong
expect.set_options(timeout=PATIENCE)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = tmp_path_factory.mktemp("runs")
    log = root / "app.log"
    command = [sys.executable, "app/launch.py", "--no-browser", "--port", str(port), "--runs-root", str(root)]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        yield _when_open(f"http://127.0.0.1:{port}/", process, log)
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in log.read_text()


def _when_open(url: str, process: subprocess.Popen, log: Path) -> str:
    for _ in range(240):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return url
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """An open page that has drawn its first view; what it asked of others and its console errors fail the test."""
    outside, errors = [], []
    page = browser.new_page(viewport={"width": 1366, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda r: _is_local(r.url, address) or outside.append(r.url))
    page.on("console", lambda m: m.type == "error" and errors.append(m.text))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(address)
    drawn(page, "Wavelet sub-bands")
    yield page
    page.close()
    assert not outside
    assert not errors


def _is_local(url, address):
    return url.startswith((address, "data:", "blob:"))


def drawn(page: Page, title: str) -> dict:
    """Wait for a visible figure whose title matches; its first trace's type and the number of traces."""
    figure = page.locator(".js-plotly-plot:visible", has=page.locator(".gtitle", has_text=re.compile(title)))
    expect(figure.first).to_be_visible()
    return figure.first.evaluate("f => ({traces: f.data.length, type: f.data[0].type, height: f.clientHeight})")


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


@pytest.mark.parametrize(
    ("tab", "titles"),
    [
        ("Sub-bands", ["Wavelet sub-bands"]),
        ("Spectra", ["Energy spectrum", "Radial energy spectrum"]),
        ("Gaussian masks", ["Gaussian mask"]),
        ("DS2S", ["DS2S · student .* trained"]),
    ],
)
def test_every_tab_is_drawn(page, tab, titles):
    page.get_by_role("tab", name=tab).click()
    for title in titles:
        figure = drawn(page, title)
        assert figure["traces"] >= 3
        assert figure["height"] >= 400


def test_header_says_what_is_loaded(page):
    for word in ("teacher", "student alone", "student (sfkd)", "convnext_atto", "swin_tiny", "fashion_mnist", "%"):
        expect(page.locator("body")).to_contain_text(word)


def test_controls(page):
    choose(page, "Wavelet", "db2")
    drawn(page, "Wavelet sub-bands · db2")
    choose(page, "Channel", "principal component 1")
    drawn(page, "principal component 1")
    choose(page, "Channel", "one channel")
    page.get_by_label("Channel number").fill("2")
    page.keyboard.press("Tab")
    drawn(page, "channel 2")
    page.get_by_label("range slider for Levels").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.js-plotly-plot').data.length === 12", timeout=PATIENCE)
    page.get_by_label("Layer: student ↔ teacher").click()
    page.get_by_role("option").nth(1).click()
    expect(page.locator(".js-plotly-plot:visible", has_text="stages.2")).to_be_visible()
    page.get_by_role("tab", name="Gaussian masks").click()
    drawn(page, "σ = 0.25")
    page.get_by_label("number input for Sigma, cycles/pixel").fill("0.1")
    page.keyboard.press("Tab")
    drawn(page, "σ = 0.1 ")


def test_other_images(page):
    page.get_by_role("tab", name="Spectra").click()
    drawn(page, "Energy spectrum")
    page.get_by_role("button", name=re.compile("Thumbnail 22|cat")).first.click()
    expect(page.locator(".verdict")).to_contain_text("photograph “cat”")
    page.get_by_role("button", name="Average over all samples").click()
    expect(page.locator(".verdict")).to_contain_text("mean over all 240 sample images")
    expect(page.locator(".js-plotly-plot:visible", has_text="240 images").first).to_be_visible()


def test_upload_and_a_broken_upload(page, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not a picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "a.png")
    expect(page.locator(".verdict")).to_contain_text("your picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "b.png")
    expect(page.get_by_text("cannot be read as a picture")).to_be_visible()


def test_another_pair_by_name(page):
    page.get_by_role("button", name="Open another pair").click()
    page.get_by_label("Teacher (timm name)").fill("test_vit.r160_in1k")
    page.get_by_label("Student (timm name)").fill("no_such_model")
    page.get_by_role("button", name="Open models").click()
    expect(page.get_by_text("unknown timm model 'no_such_model'")).to_be_visible()
    page.get_by_label("Student (timm name)").fill("test_resnet.r160_in1k")
    page.get_by_role("button", name="Open models").click()
    expect(page.locator(".badge.warn")).to_contain_text("random weights")
    page.get_by_role("tab", name="DS2S").click()
    drawn(page, "untrained: the identity")
    choose(page, "Run", "bundled pair")
    drawn(page, "DS2S .* · trained")
    expect(page.locator(".cards")).to_contain_text("student alone")


def test_missing_weights_offer_random_ones(browser, address):
    """Only where there is no network: the page says so and offers random weights."""
    if _hub_answers():
        pytest.skip("the model hub answers here")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("button", name="Open another pair").click()
    page.get_by_label("Teacher (timm name)").fill("test_vit.r160_in1k")
    page.get_by_label("Student (timm name)").fill("test_resnet.r160_in1k")
    page.get_by_label("Pretrained weights").check()
    page.get_by_role("button", name="Open models").click()
    expect(page.get_by_text("No weights.")).to_be_visible()
    page.get_by_role("button", name="Open with random weights").click()
    expect(page.locator(".badge.warn")).to_contain_text("random weights")
    page.close()


def test_dark_theme_has_light_ink(browser, address):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme=dark")
    drawn(page, "Wavelet sub-bands")
    ink = page.locator(".gtitle").first.evaluate("t => getComputedStyle(t).fill")
    assert min(int(v) for v in re.findall(r"\d+", ink)[:3]) > 180
    page.close()


def _hub_answers():
    try:
        socket.getaddrinfo("huggingface.co", 443)
    except OSError:
        return False
    return True
