"""Other pairs in Chromium: names that there are and names that there are not."""

import socket

import pytest
from playwright.sync_api import expect

SMALL = ("test_vit.r160_in1k", "test_resnet.r160_in1k")


def names(page, teacher, student):
    opener = page.page.get_by_role("button", name="Other pair: a run, or any two timm models")
    if not page.page.get_by_label("Student (timm name)").first.is_visible():
        opener.click()
    page.page.get_by_label("Teacher (timm name)").first.fill(teacher)
    page.page.get_by_label("Student (timm name)").first.fill(student)


def test_two_names_and_back(visit):
    page = visit("view=ds2s")
    page.drawn("DS2S .* · trained")
    alert = page.page.get_by_role("alert").locator("visible=true").first
    names(page, SMALL[0], "no_such_model")
    page.page.get_by_role("button", name="Open models").click()
    expect(alert).to_contain_text("unknown timm model 'no_such_model'")
    names(page, SMALL[0], "local-dir:/etc")
    page.page.get_by_role("button", name="Open models").click()
    expect(alert).to_contain_text("timm names only")
    names(page, *SMALL)
    page.page.get_by_role("button", name="Open models").click()
    expect(page.page.locator(".badge.warn")).to_contain_text("random weights")
    page.drawn("untrained: the identity")
    page.query(f"teacher={SMALL[0]}&student={SMALL[1]}&weights=random")
    page.choose("Model", "teacher")
    page.open("Overview")
    page.answer("no student trained alone")
    page.open("DS2S")
    page.choose("Run", "bundled pair")
    page.drawn("DS2S .* · trained")
    expect(page.page.locator(".cards")).to_contain_text("student alone")


def test_a_link_to_two_names(visit):
    page = visit(f"view=spectra&teacher={SMALL[0]}&student={SMALL[1]}")
    page.drawn("Energy spectrum")
    expect(page.page.locator(".badge.warn")).to_be_visible()


def test_a_link_does_not_fetch_weights(visit):
    page = visit(f"view=spectra&teacher={SMALL[0]}&student={SMALL[1]}&weights=pretrained")
    expect(page.page.locator(".remark")).to_contain_text("A link does not fetch weights")
    page.drawn("Energy spectrum")


def test_missing_weights_offer_random_ones(visit):
    """Only where there is no network: the page says so and offers random weights."""
    if _hub_answers():
        pytest.skip("the model hub answers here")
    page = visit()
    page.drawn("Transfer: alignment")
    names(page, *SMALL)
    page.page.get_by_label("Pretrained weights").check()
    page.page.get_by_role("button", name="Open models").click()
    expect(page.page.get_by_role("alert").locator("visible=true").first).to_contain_text("No weights.")
    page.page.get_by_role("button", name="Open with random weights").click()
    expect(page.page.locator(".badge.warn")).to_contain_text("random weights")


def _hub_answers():
    try:
        socket.getaddrinfo("huggingface.co", 443)
    except OSError:
        return False
    return True
