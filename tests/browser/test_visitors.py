"""Two visitors at once: neither sees the other's picture, pair or controls."""

import contextlib
import http.client
import re
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect


def test_two_visitors_do_not_meet(visit, tmp_path):
    Image.fromarray(np.full((32, 32, 3), 200, dtype=np.uint8)).save(tmp_path / "mine.png")
    ada, bob = visit("view=sub-bands"), visit("view=sub-bands")
    ada.drawn("Wavelet sub-bands · haar")
    bob.drawn("Wavelet sub-bands · haar")
    ada.page.locator("input[type=file]").first.set_input_files(tmp_path / "mine.png")
    bob.page.get_by_role("radio", name="cat").click()
    ada.choose("Wavelet", "db2")
    ada.drawn("Wavelet sub-bands · db2")
    ada.verdict("your picture")
    bob.verdict("photograph “cat”")
    bob.choose("Levels", "1")
    bob.query("levels=1")
    assert "db2" not in bob.page.url
    assert "upload" not in bob.page.url
    assert "levels" not in ada.page.url
    expect(bob.page.get_by_role("radio", name="your picture")).to_have_count(0)
    bob.drawn("Wavelet sub-bands · haar")
    ada.drawn("Wavelet sub-bands · db2")


def test_long_and_quick_do_not_wait_for_each_other(visit):
    ada, bob = visit("view=ablation&levels=4&wavelet=coif1&image=mean:240"), visit("view=spectra")
    expect(ada.page.locator(".progress")).to_contain_text("Ablation")
    bob.drawn("Energy spectrum")
    for name in ("Bag", "Coat", "Dress"):
        bob.page.get_by_role("radio", name=name).first.click()
        bob.verdict(f"label “{name}”")
    expect(ada.page.locator(".progress")).to_be_visible()
    ada.page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(ada.page.locator(".progress")).to_be_hidden()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("gradio_api/file=/etc/passwd", {}, 404),
        ("gradio_api/vibe-edit", {}, 404),
        ("", {"Host": "evil.example"}, 421),
        ("config", {"Origin": "https://evil.example"}, 403),
        ("sfkd/plotly.min.js", {}, 200),
        ("assets/..%2f..%2f..%2f__init__.py", {}, 404),
        ("assets/%2e%2e", {}, 404),
        ("assets/nothing.js", {}, 404),
    ],
)
def test_the_server_answers_its_page_alone(address, path, headers, status):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", f"/{path}", headers=headers)
        assert connection.getresponse().status == status


def test_scripts_are_sent_as_they_are_on_disk_and_kept_by_the_browser(address):
    assets = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        names = re.findall(r"assets/([\w.-]+\.(?:js|css))", page)
        assert {Path(name).suffix for name in names} == {".js", ".css"}
        for name in names:
            connection.request("GET", f"/assets/{name}")
            answer = connection.getresponse()
            assert answer.read() == (assets / name).read_bytes()
            assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))
            assert "immutable" in answer.headers["cache-control"]
