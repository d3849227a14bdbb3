"""What the models look at: samples, uploads, averages, in Chromium; and bad files."""

import re

import numpy as np
from PIL import Image
from playwright.sync_api import expect


def test_samples_photographs_and_averages(visit):
    page = visit("view=spectra")
    first = page.drawn("Radial energy spectrum")["values"]
    page.page.get_by_role("radio", name="Bag").first.click()
    page.verdict("label “Bag”")
    page.query("image=test:8")
    page.page.get_by_role("radio", name="rocket").click()
    page.verdict("photograph “rocket”")
    page.page.get_by_label("Number of samples").fill("0")
    page.page.get_by_role("button", name="Average over samples:").click()
    expect(page.page.get_by_label("Number of samples")).to_have_value("1")
    page.page.get_by_label("Number of samples").fill("64")
    page.page.get_by_role("button", name="Average over samples:").click()
    page.verdict("mean over 64 sample images")
    expect(page.figure("Energy spectrum")).to_contain_text("64 images")
    page.query("image=mean:64")
    assert page.drawn("Radial energy spectrum")["values"] != first
    expect(page.page.locator("[role=radio][aria-checked=true][data-source]")).to_have_count(0)


def test_an_upload_and_what_is_no_picture(visit, tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "mine.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    Image.new("1", (8000, 8000)).save(tmp_path / "vast.png")
    page = visit("view=sub-bands")
    page.drawn("Wavelet sub-bands")
    chooser = page.page.locator("input[type=file]").first
    chooser.set_input_files(tmp_path / "mine.png")
    page.verdict("your picture")
    page.query("image=upload:")
    expect(page.page.get_by_role("radio", name="your picture")).to_have_attribute("aria-checked", "true")
    alert = page.page.get_by_role("alert").locator("visible=true").first
    for name, message in (
        ("text.png", "cannot be read as a picture"),
        ("drawing.svg", "cannot be read as a picture"),
        ("vast.png", "at most 50 million"),
    ):
        chooser.set_input_files(tmp_path / name)
        expect(alert).to_contain_text(message)
    page.verdict("your picture")
    page.page.reload()
    page.drawn("Wavelet sub-bands")
    page.verdict("your picture")
    expect(page.page.get_by_role("radio", name="your picture")).to_be_visible()


def test_an_upload_that_is_no_longer_kept(visit):
    page = visit("view=spectra&image=upload:aaaaaaaaaaaaaaaaaaaaaaaa")
    expect(page.page.locator(".remark")).to_contain_text("no longer kept here")
    page.drawn("Energy spectrum")
    page.verdict("T shirt")
    expect(page.page).to_have_url(re.compile(r"view=spectra$"))
