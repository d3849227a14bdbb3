"""Two visitors at once: neither sees the other's picture, pair or controls."""

import contextlib
import http.client
import re
from urllib.parse import urlsplit

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
    ],
)
def test_the_server_answers_its_page_alone(address, path, headers, status):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", f"/{path}", headers=headers)
        assert connection.getresponse().status == status


def test_the_figures_library_is_named_with_the_page_itself(address):
    """Gradio puts the page's head into the document late; without this the library comes a second later."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        path = re.fullmatch(r"<(.*)>; rel=preload; as=script", answer.headers["link"])[1]
        connection.request("GET", f"/{path}")
        library = connection.getresponse()
        assert library.headers["content-type"].startswith("text/javascript")
        assert b"plotly" in library.read()[:2000]
