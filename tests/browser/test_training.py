"""A training in Chromium: started, watched, left, found again after a reload and after the app was started anew, stopped."""

import contextlib
import json
import os
import re
import signal

import pytest
import yaml
from app_page import Visit
from app_process import free_port, running
from playwright.sync_api import expect

STEPS = re.compile(r"step \d+ of \d+ · loss [\d.]+ · \d+ images/s · .* left")


@pytest.fixture
def folder(tmp_path, recipe_values, distilled):
    """A folder of recipes and runs; what is still trained at the end is ended."""
    (tmp_path / "configs").mkdir()
    values = recipe_values("nowhere", **distilled)
    (tmp_path / "configs" / "tiny.yaml").write_text(yaml.safe_dump(values))
    wrong = values | {"data": values["data"] | {"root": "/nowhere"}}
    (tmp_path / "configs" / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    yield tmp_path
    for record in tmp_path.glob("runs/.jobs/*/job.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)


def start(visit, name, recipe="tiny", epochs=0):
    visit.choose("Recipe", recipe)
    visit.page.get_by_label("Name of the run").fill(name)
    visit.page.get_by_label("Epochs (0: the recipe's)").fill(str(epochs))
    visit.page.get_by_role("button", name="Start training").click()


def test_a_training_from_start_to_the_other_views(browser, folder):
    arguments, port = ("--recipes", str(folder / "configs")), free_port()
    with running(folder, *arguments, port=port) as address:
        page = Visit(browser, address, "view=training")
        page.drawn("Training · demo")
        state = page.page.locator(".job")
        start(page, "long", epochs=100000)
        expect(state).to_contain_text("long is being trained")
        page.query("view=training&job=long")
        start(page, "other")
        expect(page.page.get_by_role("alert").locator("visible=true").first).to_contain_text("long is being trained on")
        expect(state).to_contain_text(STEPS)
        page.page.reload()
        expect(state).to_contain_text(STEPS)
        page.close()
    with running(folder, *arguments, port=port) as address:  # the app ended, the training did not
        page = Visit(browser, address, "view=training&job=long")
        state = page.page.locator(".job")
        expect(state).to_contain_text(STEPS)
        page.drawn("Training · .* · not finished")
        other = Visit(browser, address, "view=training")  # without a name in its address
        expect(other.page.locator(".job")).to_contain_text("long is being trained")
        other.close()
        page.page.get_by_role("button", name="Stop", exact=True).locator("visible=true").last.click()
        expect(state).to_contain_text("was stopped")
        expect(page.page.get_by_role("button", name="Go on")).to_be_enabled()
        start(page, "wrong", recipe="wrong")
        expect(state).to_contain_text("ended with an error")
        expect(state.locator("pre")).to_contain_text("/nowhere")
        start(page, "mine")
        expect(state).to_contain_text("mine is trained")
        page.drawn("Training · mine · sfkd")
        page.page.get_by_role("button", name="Open in the other views").click()
        page.drawn("Transfer: alignment")
        expect(page.page.locator(".data")).to_contain_text("run mine")
        page.query(r"\?run=mine$")
        page.close()


def test_names_that_are_none(visit):
    page = visit("view=training")
    page.drawn("Training · demo")
    alerts = page.page.get_by_role("alert").locator("visible=true")
    for name in ("../x", "", "a b"):
        for _ in range(2):  # the first alert goes with the second try, which has one of its own
            page.page.get_by_label("Name of the run").fill(name)
            page.page.get_by_role("button", name="Start training").click()
            expect(alerts.first).to_contain_text("letters, digits")
        page.open("Overview")
        page.drawn("Transfer: alignment")
        expect(alerts).to_have_count(0)
        page.open("Training")


def test_an_alert_outlives_a_view_that_is_drawn_late(visit):
    """The answer of an earlier click takes nothing away."""
    page = visit("view=training")
    page.drawn("Training · demo")
    page.page.get_by_label("Name of the run").fill("../x")
    page.open("CKA")  # its figures come while the alert is shown
    page.open("Training")
    page.page.get_by_role("button", name="Start training").click()
    alert = page.page.get_by_role("alert").locator("visible=true").first
    expect(alert).to_contain_text("letters, digits")
    page.page.wait_for_timeout(1500)
    expect(alert).to_contain_text("letters, digits")
